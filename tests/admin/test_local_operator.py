"""local-operator: real servers, on a unix socket and on TCP."""

import os
import socket
import subprocess
import sys

import pytest
from guest import call
from local import ask_tcp, host

from mdmw.admin.app import app_factory
from mdmw.admin.local_operator import filter_factory
from mdmw.errors import ConfigError

NETWORKS = "/v1/inventory/networks"
BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
ONE_KIND = "waitress"  # has either, not both
TELLING = ["gunicorn", "gunicorn-gevent", "uwsgi", "waitress"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("server", TELLING)
def test_a_unix_socket_is_trusted_and_tcp_is_not(server):
    """And the record names who was at the other end of the socket."""
    with host() as made:
        tcp = f"127.0.0.1:{free_port()}"
        unix = f"unix:{made.folder / 'admin-local'}"
        made.serve("admin-local", server, [unix] if server == ONE_KIND else [unix, tcp])
        status, _ = made.ask("POST", NETWORKS, {"id": BLUE, "name": "blue"})
        assert status == 201
        status, page = made.ask("GET", "/v1/inventory/audit")
        assert page["changes"][0]["caller"]["name"] == f"uid {os.getuid()} on the socket"
        assert f"uid {os.getuid()} on the socket: created networks[{BLUE}]" in made.log("admin-local")
        if server == ONE_KIND:
            made.serve("admin-local", server, [tcp])
        status, said = ask_tcp(tcp, "GET", NETWORKS)
        assert (status, "only unix sockets" in said["error"]["message"]) == (403, True)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_it_is_the_caller_that_is_named():
    with host() as made:
        made.serve("admin-local")
        made.folder.chmod(0o711)
        (made.folder / "admin-local").chmod(0o666)
        request = f"GET {NETWORKS}?limit=x HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n"
        script = (
            "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            f"s.connect(sys.argv[1]); s.sendall(b'{request}'); print(s.recv(65536))"
        )
        command = [sys.executable, "-c", script, made.folder / "admin-local"]
        assert b"400" in subprocess.run(command, capture_output=True, check=True).stdout
        assert "uid 65534 on the socket: 400" in made.log("admin-local")


def test_a_server_that_hides_its_connections_is_refused():
    with host() as made:
        made.serve("admin-local", "granian")
        status, said = made.ask("GET", NETWORKS)
        assert (status, "does not say whether" in said["error"]["message"]) == (403, True)


@pytest.mark.parametrize("peer", ["", "localhost", "127.0.0.1"])
def test_nothing_in_the_request_makes_it_a_socket(peer):
    """Some servers say so little of a unix socket that a proxied request would look the same."""
    app = filter_factory({})(app_factory({}))
    assert call(app, target="/v1/config", peer=peer).status == 403


def test_no_options():
    with pytest.raises(ConfigError):
        filter_factory({}, colour="blue")
