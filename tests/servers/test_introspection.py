"""Each server's processes answer questions: before the first request, with right numbers, until they end."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mdmw.observe.processes import Reply, ask

from .client import Connection, request
from .launch import SERVERS, Listener
from .nova import Nova
from .pipelines import ADA, ADA_ON_GREEN, Guest, relay_signature
from .running import connected, started

PATIENCE = 20.0
_INTROSPECT = """
[filter:introspect]
use = egg:mdmw#introspect
introspect_dir = %(here)s/{name}
"""


@pytest.fixture(scope="module", params=list(SERVERS))
def processes(request: pytest.FixtureRequest, directory: Path, ini: Path) -> Iterator[Path]:
    """A server with the pipeline `agent`; gives the directory of its sockets. It listens beside them."""
    server: str = request.param
    sockets = directory / f"of-{server}"
    own = directory / f"introspect-{server}.ini"
    text = ini.read_text().replace("pipeline = identify-relay", "pipeline = introspect identify-relay")
    own.write_text(text + _INTROSPECT.format(name=sockets.name))
    listener = Listener(sockets.with_suffix(".listen"))
    with started(
        SERVERS[server]("agent", [listener], 2), own, (listener,), None, sockets.with_suffix(".log")
    ):
        until(lambda: len(ask(sockets, "process")) == (1 if server == "waitress" else 2))
        yield sockets


def until(holds: Callable[[], bool]) -> None:
    """A look now and then, since nobody tells."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def get(processes: Path, target: str, guest: Guest = ADA) -> int:
    with Connection(connected(Listener(processes.with_suffix(".listen")), None)) as connection:
        fixed = [("Host", "x"), ("Connection", "close"), relay_signature(guest, "GET", target)]
        connection.send(request("GET", target, [*fixed, *guest.to_agent()]))
        return connection.reply().status


def counted(replies: list[Reply], network: str) -> dict[str, int]:
    """Statuses and their numbers, of all processes."""
    total: dict[str, int] = {}
    for reply in replies:
        for one in reply.answer["scopes"]:
            if one["scope"] == ["network", network]:
                for status, count in one["statuses"].items():
                    total[status] = total.get(status, 0) + count
    return total


def test_requests_are_counted_wherever_they_were_served(processes: Path, nova: Nova) -> None:
    nova.answers[b"/absent"] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    assert [get(processes, f"/{number}?secret") for number in range(20)] == [200] * 20
    assert get(processes, "/absent", ADA_ON_GREEN) == 404
    replies = ask(processes, "counters")
    assert counted(replies, ADA.network) == {"2xx": 20}
    assert counted(replies, ADA_ON_GREEN.network) == {"4xx": 1}
    recent = [one for reply in ask(processes, "recent", instance=ADA.instance) for one in reply.answer]
    assert sorted(one["path"] for one in recent) == sorted(f"/{number}" for number in range(20))
    assert "secret" not in str(recent)
    assert all(one["address"] == ADA.address and one["seconds"] > 0 for one in recent)
    green = ["network", ADA_ON_GREEN.network]
    (one,) = [one for reply in ask(processes, "recent", scope=green) for one in reply.answer]
    assert (one["status"], one["instance"]) == (404, ADA_ON_GREEN.instance)
    assert [reply.error for reply in ask(processes, "recent", limit=0)] == ["BadRequest"] * len(replies)


def test_it_says_who_a_guest_is_and_whether_nova_is_there(processes: Path, nova: Nova) -> None:
    for reply in ask(processes, "resolve", kind="network", id=ADA.network, address=ADA.address):
        assert reply.answer["instance"]["id"] == ADA.instance
        assert reply.answer["resolver"] == "InventoryResolver"
    for reply in ask(processes, "checks", timeout=PATIENCE):
        assert {name: found["ok"] for name, found in reply.answer.items()} == {
            "resolver": True,
            "upstream": True,
        }
    for reply in ask(processes, "process"):
        assert reply.answer["pid"] == reply.pid
        assert reply.answer["memory"] > 1_000_000


def test_a_process_that_is_killed_is_not_there_any_more(processes: Path) -> None:
    """The last one: some servers end with it."""
    pids = [reply.pid for reply in ask(processes, "process")]
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: pids[0] not in [reply.pid for reply in ask(processes, "process")])
    until(lambda: all(reply.is_heard for reply in ask(processes, "process")))
    assert not list(processes.glob(f"*-{pids[0]}.sock"))
