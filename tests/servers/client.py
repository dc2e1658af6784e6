"""A guest's side of a connection: bytes out, one parsed reply in."""

import http.client
import socket
from collections.abc import Sequence
from dataclasses import dataclass

Headers = Sequence[tuple[str, str | bytes]]

TIMEOUT = 40.0  # more than mdmw gives an upstream


@dataclass(frozen=True)
class Reply:
    """A response; `complete` is False when the connection ended before the body did."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    complete: bool = True

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        return ", ".join(self.all(name)) or None


def request(method: str, target: str | bytes, headers: Headers = (), body: bytes = b"") -> bytes:
    """The bytes of a request; nothing is added but the blank line."""
    target = target.encode("latin-1") if isinstance(target, str) else target
    lines = [method.encode("latin-1") + b" " + target + b" HTTP/1.1"]
    for name, value in headers:
        value = value.encode("latin-1") if isinstance(value, str) else value
        lines.append(name.encode("latin-1") + b": " + value)
    return b"\r\n".join([*lines, b"", body])


class Connection:
    """Use it with `with`; every wait ends after TIMEOUT."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(TIMEOUT)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, method: str = "GET") -> Reply:
        """Read one response; raises `OSError` or `http.client.BadStatusLine` when there is none."""
        response = http.client.HTTPResponse(self.sock, method=method)
        try:
            response.begin()
            complete = True
            try:
                body = response.read()
            except http.client.IncompleteRead as error:
                body, complete = error.partial, False
            except ConnectionResetError:
                body, complete = b"", False
            return Reply(response.status, response.reason, tuple(response.getheaders()), body, complete)
        finally:
            response.close()

    def rest(self) -> bytes:
        """Everything until the server closes; a reset counts as closed."""
        parts = []
        try:
            while part := self.sock.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)

    def is_closed(self) -> bool:
        """Whether the server closes, within TIMEOUT and without another byte."""
        return self.rest() == b""
