"""A worker that hangs is noticed, though it has not ended."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator

import pytest
from daemon import Site, namespaces, site
from servers.namespace import Namespace
from stopping import stop

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces"
)

NETWORKS = tuple(f"2e9c3a52-6d0e-4f6b-9c1e-{number:012x}" for number in range(3))
NAMES = tuple(f"qdhcp-{network}" for network in NETWORKS)
GUEST = "10.0.0.5"
PATIENCE = 30.0


@pytest.fixture
def place() -> Iterator[Site]:
    with namespaces(*NAMES, addresses=[GUEST]), site() as made:
        yield made


def answer(name: str) -> bytes:
    """The first line; there is no agent, which is an answer too."""
    space = Namespace(name)
    with space.socket(socket.AF_INET) as sock:
        space.close()
        sock.settimeout(PATIENCE)
        sock.bind((GUEST, 0))
        sock.connect(("169.254.169.254", 80))
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return sock.recv(1000).partition(b"\r\n")[0]


def test_workers_that_hang_are_replaced(place: Site) -> None:
    """One line for each; who connects meanwhile waits for the next worker, and no listener is lost."""
    keeper = place.started()
    place.want(*[[f"qdhcp-{one}", ["169.254.169.254", 80, None], ["network", one]] for one in NETWORKS])
    before = place.workers(keeper)
    for pid in before:
        stop(pid)
    answers: list[bytes] = []
    guests = [threading.Thread(target=lambda name=name: answers.append(answer(name))) for name in NAMES]
    for guest in guests:
        guest.start()
    for guest in guests:
        guest.join()
    assert answers == [b"HTTP/1.1 503 Service Unavailable"] * len(NAMES)
    place.until(lambda: len(place.workers(keeper)) == 2)
    assert not set(before) & set(place.workers(keeper))
    assert place.log.count("a worker has ended (hung, and was killed); another takes its place") == 2
    assert len(place.listeners()) == len(NETWORKS)
