"""No request is lost while the daemon is reloaded, upgraded, restarted, or loses a worker or its keeper."""

import http.client
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import Site, children, namespaces, site
from servers.namespace import Namespace
from servers.nova import Nova

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces"
)

REQUESTS = 10_000
GUESTS = 8
ADDRESS = "10.0.0.5"
NETWORKS = tuple(str(uuid.uuid4()) for _ in range(4))
NAMES = tuple(f"qdhcp-{network}" for network in NETWORKS)


def listener(network: str) -> list[object]:
    return [f"qdhcp-{network}", ["169.254.169.254", 80, None], ["network", network]]


class Guest:
    """Asks in one network, again and again, half of the time on kept connections."""

    def __init__(self, network: str, keeps: bool) -> None:
        self._network = network
        self._keeps = keeps
        self._connection: http.client.HTTPConnection | None = None

    def ask(self) -> None:
        """One request; raises when anything is wrong with it."""
        if self._connection is None:
            self._connection = self._connected()
        self._connection.request("GET", "/x", headers={} if self._keeps else {"Connection": "close"})
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 200, (response.status, body)
        assert body == f"/x for {self._network} {ADDRESS}".encode()
        if response.will_close:
            self.close()

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _connected(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("169.254.169.254")
        namespace = Namespace(f"qdhcp-{self._network}")
        connection.sock = namespace.socket(socket.AF_INET)
        namespace.close()
        try:
            connection.sock.settimeout(20)
            connection.sock.bind((ADDRESS, 0))
            connection.sock.connect(("169.254.169.254", 80))
        except OSError:
            connection.close()
            raise
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class Load:
    """Guests that ask at the same time, until there were enough requests and it is told to end."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.done = 0
        self._changed = threading.Condition()
        self._ending = False
        guests = [Guest(NETWORKS[n % len(NETWORKS)], keeps=n >= GUESTS // 2) for n in range(GUESTS)]
        self._threads = [threading.Thread(target=self._run, args=[guest]) for guest in guests]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join()

    def reaches(self, count: int) -> None:
        """Wait until so many requests were answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.done >= count or self.failures, 60)

    def _run(self, guest: Guest) -> None:
        while not self._ending:
            try:
                guest.ask()
            except Exception as error:  # whatever it is, a guest has seen it
                self.failures.append(repr(error))
                guest.close()
            with self._changed:
                self.done += 1
                self._changed.notify_all()
        guest.close()


@pytest.fixture
def agent() -> Iterator[Nova]:
    """It says for whom it was asked."""
    with tempfile.TemporaryDirectory(prefix="mdmw-") as name:
        Path(name).chmod(0o755)
        with Nova(Path(name) / "agent") as nova:
            nova.path.chmod(0o666)
            yield nova


@pytest.fixture
def place(agent: Nova) -> Iterator[Site]:
    with namespaces(*NAMES, addresses=[ADDRESS]), site(agent.path) as made:
        yield made


def test_no_request_of_10000_is_lost(place: Site) -> None:
    """Reloads, upgrades and restarts under load; a network that comes meanwhile is served."""
    keeper = place.started()
    place.want(*map(listener, NETWORKS))
    steps = 8
    with Load() as load:
        for step in range(steps):
            load.reaches((step + 1) * REQUESTS // (steps + 1))
            place.supervisor.forget()
            if step % 2:
                keeper.send_signal(signal.SIGHUP)
                place.supervisor.wait_for("READY=1")
            elif step % 4:
                older, keeper = keeper, place.started()  # takes over from the other
                assert older.wait(60) == 0
            else:
                keeper.terminate()
                assert keeper.wait(60) == 0
                keeper = place.started(keep=list(place.supervisor.kept.items()))
                place.want(*map(listener, NETWORKS))
        load.reaches(REQUESTS)
    assert load.failures == []
    assert load.done >= REQUESTS
    assert "Traceback" not in place.log


def test_a_network_that_comes_during_a_restart(place: Site) -> None:
    """What is asked of the old keeper while the new one starts is asked again of the new one."""
    keeper = place.started()
    place.want(*map(listener, NETWORKS[:1]))
    place.supervisor.forget()
    place.start()
    while place.supervisor.said == []:
        place.want(*map(listener, NETWORKS[:2]))
    place.want(*map(listener, NETWORKS[:3]))
    assert keeper.wait(60) == 0
    place.supervisor.wait_for("READY=1")
    for network in NETWORKS[:3]:
        Guest(network, keeps=False).ask()
    assert len(place.listeners()) == 3


def test_a_bad_configuration_changes_nothing(place: Site) -> None:
    """SIGHUP, or a new keeper: one line says what is wrong, and the old one goes on."""
    keeper = place.started()
    place.want(*map(listener, NETWORKS))
    good = place.ini.read_text()
    place.ini.write_text(good.replace("mode = listener", "mode = guess"))
    keeper.send_signal(signal.SIGHUP)
    place.wait_for_log("the old configuration stays in service: ")
    assert place.start().wait(30) == 2
    lines = [line for line in place.log.splitlines() if "'guess'" in line]
    assert len(lines) == 2
    assert lines[1].startswith(f"mdmw-node: {place.ini}: [filter:identify]: option 'mode'")
    place.wait_for_log("the new keeper has ended before it could take over")
    Guest(NETWORKS[0], keeps=False).ask()
    place.ini.write_text(good)
    place.started()
    assert keeper.wait(60) == 0
    Guest(NETWORKS[0], keeps=False).ask()


@pytest.mark.parametrize("is_supervised", [True, False])
def test_a_keeper_that_is_killed(place: Site, is_supervised: bool) -> None:
    """Its workers serve on. The next one has them make place, and starts anew, or has what systemd kept."""
    keeper = place.started()
    place.want(*map(listener, NETWORKS))
    workers = place.workers(keeper)
    assert len(place.listeners()) == len(NETWORKS)  # and the workers have been told of them
    keeper.kill()
    keeper.wait()
    for network in NETWORKS:
        Guest(network, keeps=False).ask()
    if is_supervised:
        successor = place.started(keep=list(place.supervisor.kept.items()))
    else:
        place.supervisor.drop()
        successor = place.started()
    place.want(*map(listener, NETWORKS))
    for network in NETWORKS:
        Guest(network, keeps=False).ask()
    assert len(place.listeners()) == len(NETWORKS)
    place.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert len(place.workers(successor)) == 2


def test_an_old_keeper_that_ends_while_it_hands_over(place: Site) -> None:
    """The new one has all that it needs, and serves."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as old:
        old.bind(str(place.directory / "node.sock"))
        old.listen()
        old.settimeout(20)
        place.start()
        caller, _ = old.accept()
        with caller:
            assert caller.recv(100) == b'{"kind":"take-over"}'
            caller.send(b'{"kind":"done"}')
    place.supervisor.wait_for("READY=1")
    assert "the old keeper has ended before this one told it to" in place.log
    place.want(listener(NETWORKS[0]))
    Guest(NETWORKS[0], keeps=False).ask()


@pytest.mark.parametrize("victim", ["one", "all", "preloader"])
def test_a_worker_that_is_killed_is_replaced(place: Site, victim: str) -> None:
    """And no listener is lost: whoever connects meanwhile waits for the next worker."""
    keeper = place.started()
    place.want(*map(listener, NETWORKS))
    workers = place.workers(keeper)
    for pid in {"one": workers[:1], "all": workers, "preloader": children(keeper.pid)}[victim]:
        os.kill(pid, signal.SIGKILL)
    for network in NETWORKS * 3:
        Guest(network, keeps=False).ask()
    place.until(lambda: len(place.workers(keeper)) == 2 and place.workers(keeper) != workers)


def test_a_stop_does_not_wait_for_the_idle(place: Site) -> None:
    """A guest that says nothing keeps nobody; one whose request is being answered is waited for."""
    keeper = place.started()
    place.want(listener(NETWORKS[0]))
    space = Namespace(NAMES[0])
    with space.socket(socket.AF_INET) as mute, space.socket(socket.AF_INET) as asks:
        space.close()
        for sock in (mute, asks):
            sock.settimeout(20)
            sock.bind((ADDRESS, 0))
            sock.connect(("169.254.169.254", 80))
        asks.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        place.until(lambda: place.listeners()[0]["open"] == 2)
        began = time.monotonic()
        keeper.terminate()
        assert mute.recv(1) == b""
        asks.sendall(b"b")
        assert asks.recv(100).startswith(b"HTTP/1.1 200 ")
        assert keeper.wait(20) == 0
        assert time.monotonic() - began < 10
