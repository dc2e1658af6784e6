"""The MAC of a guest, from the kernel (R-8)."""

import json
import os
import secrets
import shutil
import subprocess
import sys

import pytest

from mdmw.node.namespaces import run

MAC = "fa:16:3e:99:00:05"
IPV4 = "10.0.0.5"
STABLE_PRIVACY = "fe80::1234:5678:9abc:def0"
LISTEN = """
import json, socket
from mdmw.filters.source_identify import filter_factory
with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print(server.getsockname()[1], flush=True)
    connection, peer = server.accept()
    found = {}
    section = {"mode": "fixed", "network_id": "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31", "client_mac": "true"}
    app = filter_factory({}, **section)(lambda environ, start_response: found.update(environ) or [])
    app({"REQUEST_METHOD": "GET", "REQUEST_URI": "/", "REMOTE_ADDR": peer[0]}, None)
    source = found["mdmw.source"]
    print(json.dumps([source.address, source.mac]), flush=True)
    connection.close()
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces"
)


@pytest.fixture
def pair():
    """Two namespaces with a cable between them: where mdmw runs, and a guest."""
    host, guest = (f"mdmw-{secrets.token_hex(3)}-{name}" for name in ("host", "guest"))
    made = []
    try:
        for name in (host, guest):
            run("ip", "netns", "add", name)
            made.append(name)
        run("ip", "link", "add", "eth0", "netns", host, "type", "veth", "peer", "eth0", "netns", guest)
        run("ip", "-n", guest, "link", "set", "eth0", "addrgenmode", "none")
        run("ip", "-n", guest, "link", "set", "eth0", "address", MAC, "up")
        run("ip", "-n", guest, "address", "add", f"{STABLE_PRIVACY}/64", "dev", "eth0", "nodad")
        run("ip", "-n", host, "link", "set", "eth0", "addrgenmode", "none", "up")
        run("ip", "-n", host, "address", "add", "fe80::a9fe:a9fe/64", "dev", "eth0", "nodad")
        run("ip", "-n", guest, "address", "add", f"{IPV4}/24", "dev", "eth0")
        run("ip", "-n", host, "address", "add", "10.0.0.2/24", "dev", "eth0")
        yield host, guest
    finally:
        for name in made:
            run("ip", "netns", "delete", name)


@pytest.mark.parametrize(
    ("dialled", "address"), [("fe80::a9fe:a9fe%eth0", STABLE_PRIVACY), ("10.0.0.2", IPV4)]
)
def test_r_8_the_mac_comes_from_the_neighbour_table(pair, dialled, address):
    """R-8: no EUI-64 in the address, so the neighbour-table entry of the TCP peer decides."""
    host, guest = pair
    command = ["ip", "netns", "exec", host, sys.executable, "-c", LISTEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        port = server.stdout.readline().strip()
        dial = f"import socket; socket.create_connection(('{dialled}', {port}), 10).recv(1)"
        subprocess.run(["ip", "netns", "exec", guest, sys.executable, "-c", dial], check=True, timeout=30)
        assert json.loads(server.stdout.readline()) == [address, MAC]
