"""mode = listener: by which of its names each server lets a listener be known."""

import json
import socket
from pathlib import Path

import pytest

from mdmw.boundary.peer import netns_cookie

from .client import Connection, request
from .launch import SERVERS, Listener
from .namespace import Namespace
from .nova import Nova
from .pipelines import ADA, ADA_ON_GREEN, GREEN, METADATA_ADDRESS, PORT, write
from .running import connected, started
from .traits import TRAITS

LISTENER = Listener(address=METADATA_ADDRESS, port=PORT + 11)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("kind", ["address", "netns"])
def test_a_listener_by_address_or_namespace(
    server: str, kind: str, tmp_path: Path, namespace: Namespace, nova: Nova
) -> None:
    """granian hides the connection: there it is the port or nothing, and nothing is 400."""
    ini = write(tmp_path, nova.path)
    with namespace.socket(socket.AF_INET) as sock:
        key = f"netns:{netns_cookie(sock)}" if kind == "netns" else str(LISTENER)
    (tmp_path / "listeners.json").write_text(json.dumps({key: {"network": GREEN}}))
    launch = SERVERS[server]("combined", (LISTENER,), 1)
    with (
        started(launch, ini, (LISTENER,), namespace, tmp_path / "log"),
        Connection(connected(LISTENER, namespace, ADA.address)) as connection,
    ):
        # Host is no name of a listener, although some servers copy it into SERVER_NAME.
        connection.send(request("GET", "/", [("Host", "169.254.169.254:8080"), ("Connection", "close")]))
        status = connection.reply().status
    if TRAITS[server].shows_connection:
        assert status == 200
        assert nova.only().all("X-Instance-ID") == [ADA_ON_GREEN.instance]
    else:
        assert status == 400
        assert nova.requests == []
