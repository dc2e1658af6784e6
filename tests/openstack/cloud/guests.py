"""Questions of guests: a connection each, from the guest's namespace, with exactly the headers named."""

import http.client
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from bench.topology import inside

from .topology import METADATA_V4, METADATA_V6

_TIMEOUT = 20
_DEVICE = "eth0"
_ADDRESSES = {4: METADATA_V4, 6: f"{METADATA_V6}%{_DEVICE}"}


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(
    namespace: str,
    path: str,
    *,
    method: str = "GET",
    version: int = 4,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    source: str = "",
) -> Reply:
    """The answer to one request; `source` is another address of the namespace."""
    connection = http.client.HTTPConnection(_ADDRESSES[version], 80, timeout=_TIMEOUT)
    try:
        with inside(namespace):
            if source:
                scope = (0, socket.if_nametoindex(_DEVICE)) if version == 6 else ()
                connection.source_address = (source, 0, *scope)
            connection.connect()
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in (("Host", METADATA_V4), ("Accept", "*/*"), *headers):
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()
