"""The access log of real servers: every line comes out, and belongs to its request."""

import json
import re
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers.client import Connection
from servers.launch import SERVERS, Listener
from servers.nova import Nova
from servers.pipelines import ADA, BEN, BLUE, CYD, STRANGER, Guest, relay_signature, write
from servers.running import connected, started
from servers.traits import TRAITS

GUESTS = (ADA, BEN, CYD, Guest(STRANGER, "", ""))
CONNECTIONS, EACH = 4, 12  # and requests of each
#: A signal ends these without Python's knowledge, so what waits to be written is lost.
ENDS_AT_ONCE = {"waitress", "granian"}
CLAIMED = "req-8b104bb5-b103-4d3f-bf5f-7bbfc06ea7cf"
PATIENCE = 10.0
_LOGGING = """
[filter:access-log]
use = egg:mdmw#access-log
format = json
destination = {log}
"""


@pytest.fixture
def directory():
    """Short, because of the sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="mdmw-"))
    yield path
    shutil.rmtree(path)


def with_log(ini, log):
    """The same file, its pipelines with an access log."""
    ini.write_text(re.sub("^pipeline = ", "pipeline = access-log ", ini.read_text(), flags=re.MULTILINE))
    with ini.open("a") as file:
        file.write(_LOGGING.format(log=log))
    return ini


def entries(log):
    """The lines of a log by path; each path was asked for once, but for those that wait for the server."""
    found = [json.loads(line) for line in log.read_text().splitlines()]
    found = [entry for entry in found if entry["path"] != "/ready"]
    by_path = {entry["path"]: entry for entry in found}
    assert len(by_path) == len(found)
    return by_path


def wait_for(holds):
    """A look now and then, since nobody tells."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def asking(listener, number, keeps_alive):
    """What one connection gets: path -> (guest, reply). Some claim an id, and only those that sign may."""
    got = {}
    connection = None
    with ExitStack() as stack:
        for turn in range(EACH):
            if connection is None or not keeps_alive:
                connection = stack.enter_context(Connection(connected(listener, None)))
            guest = GUESTS[(number + turn) % len(GUESTS)]
            path = f"/{number}/{turn}"
            headers = ["Host: x", *(f"{name}: {value}" for name, value in guest.to_agent())]
            headers.append(": ".join(relay_signature(guest, "GET", path)))
            if turn == 0:
                headers.append(f"X-Openstack-Request-Id: {CLAIMED[:-1]}{number}")
            connection.send("\r\n".join([f"GET {path} HTTP/1.1", *headers, "", ""]).encode())
            got[path] = (guest, connection.reply())
    return got


@pytest.mark.parametrize("server", SERVERS)
def test_every_request_has_its_line(server, directory):
    """Several connections at once, which are kept where the server keeps them; then the server ends."""
    log = directory / "access.log"
    listener = Listener(directory / "agent")
    with Nova(directory / "nova") as nova:
        ini = with_log(write(directory, nova.path), log)
        launch = SERVERS[server]("agent", (listener,), 2)
        with (
            started(launch, ini, (listener,), None, directory / "server.log"),
            ThreadPoolExecutor(CONNECTIONS) as threads,
        ):
            parts = threads.map(lambda n: asking(listener, n, TRAITS[server].keep_alive), range(CONNECTIONS))
            got = {path: one for part in parts for path, one in part.items()}
            if server in ENDS_AT_ONCE:
                wait_for(lambda: log.exists() and len(entries(log)) == CONNECTIONS * EACH)
        told = {one.target.decode(): one.all("X-Openstack-Request-Id") for one in nova.requests}
    found = entries(log)
    assert set(found) == set(got)
    for path, (guest, reply) in got.items():
        entry = found[path]
        assert (entry["address"], entry["network"]) == (guest.address, BLUE)
        assert (entry["status"], entry["bytes"]) == (reply.status, len(reply.body))
        assert [entry["request_id"]] == reply.all("X-Openstack-Request-Id")
        assert entry.get("instance", "") == guest.instance
        assert all(0 < entry["stages"][stage] <= entry["ms"] for stage in ("identify", "resolve"))
        if guest.instance:
            assert told[path] == [entry["request_id"]]
            assert list(entry["stages"]) == ["identify", "resolve", "sign", "forward"]
            assert "error" not in entry
        else:
            assert (entry["status"], entry["error"]) == (404, "NotIdentified")
            assert list(entry["stages"]) == ["identify", "resolve"]
            assert "notes" not in entry
    ids = {entry["request_id"] for entry in found.values()}
    assert len(ids) == len(found)
    assert {CLAIMED[:-1] + str(number) for number in range(CONNECTIONS)} < ids


_CHAIN = """
[pipeline:proxy]
pipeline = access-log identify-guest to-agent
[pipeline:agent]
pipeline = access-log identify-relay resolve sign to-nova
[pipeline:nova]
pipeline = access-log verify responder
[filter:identify-guest]
use = egg:mdmw#source-identify
mode = fixed
network_id = {BLUE}
address = 10.0.0.5
[filter:identify-relay]
use = egg:mdmw#source-identify
mode = relay
[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = inventory
inventory_file = %(here)s/inventory.yaml
[filter:sign]
use = egg:mdmw#hmac-sign
metadata_proxy_shared_secret = a secret of the test
[filter:verify]
use = egg:mdmw#hmac-verify
metadata_proxy_shared_secret = a secret of the test
[app:to-agent]
use = egg:mdmw#agent-forward
metadata_proxy_socket = %(here)s/agent
[app:to-nova]
use = egg:mdmw#nova-forward
nova_metadata_host = unix:%(here)s/nova
[app:responder]
use = egg:mdmw#responder
inventory_file = %(here)s/inventory.yaml
password_db = %(here)s/passwords.sqlite
[filter:access-log]
use = egg:mdmw#access-log
format = json
destination = {log}
"""
HOPS = {"proxy": "gunicorn", "agent": "gunicorn-gevent", "nova": "uwsgi"}


class Chain:
    """proxy, agent and nova, each a process with a log of its own and an access log."""

    def __init__(self, directory, stack):
        self.directory = directory
        self._ends = {}
        write(directory, directory / "nobody")
        for name in reversed(HOPS):
            self._ends[name] = stack.enter_context(ExitStack())
            self._ends[name].enter_context(self._started(name))

    def _started(self, name):
        ini = self.directory / f"{name}.ini"
        ini.write_text(_CHAIN.format(BLUE=BLUE, log=self.directory / f"{name}.access"))
        listener = Listener(self.directory / name)
        launch = SERVERS[HOPS[name]](name, (listener,), 1)
        return started(launch, ini, (listener,), None, self.directory / f"{name}.log")

    def end(self, name):
        self._ends[name].close()

    def ask(self, path):
        with Connection(connected(Listener(self.directory / "proxy"), None)) as connection:
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            connection.send(f"{head}X-Openstack-Request-Id: {CLAIMED}\r\n\r\n".encode())
            return connection.reply()

    def access(self, name):
        return entries(self.directory / f"{name}.access")

    def log(self, name):
        return (self.directory / f"{name}.log").read_text()


def test_one_request_through_all_logs_by_its_id(directory):
    """From the guest to Nova and back; and an error, whose page, header and log lines have the id too."""
    with ExitStack() as stack:
        chain = Chain(directory, stack)
        good = chain.ask("/latest/meta-data/local-ipv4")
        # A worker of uWSGI that is told to stop before its request is quite over ends at once.
        wait_for(lambda: (directory / "nova.access").exists() and chain.access("nova"))
        chain.end("nova")
        bad = chain.ask("/latest/meta-data/hostname")
    assert (good.status, good.body, bad.status) == (200, b"10.0.0.5", 503)
    (good_id,), (bad_id,) = good.all("X-Openstack-Request-Id"), bad.all("X-Openstack-Request-Id")
    assert len({good_id, bad_id, CLAIMED}) == 3

    logs = {name: chain.access(name) for name in HOPS}
    lines = {name: log["/latest/meta-data/local-ipv4"] for name, log in logs.items()}
    assert {line["request_id"] for line in lines.values()} == {good_id}
    assert {line["address"] for line in lines.values()} == {ADA.address}
    assert [lines[name].get("instance") for name in HOPS] == [None, ADA.instance, ADA.instance]
    assert lines["proxy"]["ms"] > lines["agent"]["ms"] > lines["nova"]["ms"]

    lines = {name: log.get("/latest/meta-data/hostname") for name, log in logs.items()}
    assert lines["nova"] is None
    assert {lines["proxy"]["request_id"], lines["agent"]["request_id"]} == {bad_id}
    assert (lines["agent"]["error"], lines["agent"]["notes"]["failover"]) == ("Unavailable", 1)
    assert bad.body.decode().split()[-1] == bad_id
    assert f"WARNING mdmw.boundary.stage {bad_id} 10.0.0.5 in network {BLUE}: GET: 503" in chain.log("agent")
