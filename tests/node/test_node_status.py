"""node-status.json: what mdmw-node tells those who are not root, and who reads it."""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import USER, Site, namespaces, site
from hypothesis import given
from hypothesis import strategies as st

from mdmw.errors import Unavailable
from mdmw.node.status import scope_of
from mdmw.observe.node_status import FILE, NodeStatus, Problem, read
from mdmw.records import Scope

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces"
)
NETWORK = Scope("network", "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31")
SPACE = f"mdmw-status-{os.getpid()}"


@pytest.fixture
def place() -> Iterator[Site]:
    with namespaces(SPACE), site() as made:
        yield made


def status(place: Site) -> NodeStatus:
    found = read(place.directory / FILE)
    assert found
    return found


@needs_root
def test_listeners_are_told_of_and_no_more_when_they_are_gone(place: Site) -> None:
    began = time.time()
    keeper = place.started("--workers", "1")
    place.until(lambda: (place.directory / FILE).exists())
    assert status(place).listeners == ()
    place.want([SPACE, ["169.254.169.254", 80, None], [NETWORK.kind, NETWORK.id]])
    place.until(lambda: bool(status(place).listeners))
    (listener,) = status(place).listeners
    assert (listener.scope, listener.namespace) == (NETWORK, SPACE)
    assert (listener.address, listener.port) == ("169.254.169.254", 80)
    assert began <= listener.since <= time.time()
    assert status(place).pid == keeper.pid
    assert status(place).plan is None
    place.want()
    place.until(lambda: not status(place).listeners)


@needs_root
def test_the_file_is_for_root_and_the_group_of_the_workers(place: Site) -> None:
    place.started("--workers", "1")
    place.until(lambda: (place.directory / FILE).exists())
    found = (place.directory / FILE).stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (found.st_uid, found.st_gid) == (0, pwd.getpwnam(USER).pw_gid)
    directory = (place.directory / "processes").stat()
    assert (directory.st_uid, stat.S_IMODE(directory.st_mode)) == (pwd.getpwnam(USER).pw_uid, 0o700)


@needs_root
def test_who_reads_it_knows_when_the_keeper_is_gone(place: Site) -> None:
    keeper = place.started("--workers", "1")
    place.until(lambda: (place.directory / FILE).exists())
    assert status(place).is_running
    keeper.send_signal(signal.SIGKILL)
    keeper.wait()
    assert not status(place).is_running


@needs_root
def test_the_plan_its_age_and_its_problems(place: Site) -> None:
    inventory = place.directory / "inventory.yaml"
    inventory.write_text("networks: []\n")
    inventory.chmod(0o644)
    began = time.time()
    place.started(
        *("--workers", "1", "--file", str(inventory), "--poll-interval", "1"),
        *("--set", f"state_path={place.directory}/state"),
    )

    def plan():  # type: ignore[no-untyped-def]
        found = read(place.directory / FILE)
        return found.plan if found else None

    place.until(lambda: bool(plan() and plan().applied_at))
    assert plan().source == f"file {inventory}"
    assert began <= plan().asked_at <= plan().applied_at <= time.time()
    assert plan().problems == ()
    inventory.write_text("networks: 5\n")
    place.until(lambda: bool(plan().problems))
    assert plan().problems[0].scope is None
    inventory.write_text("networks: []\n")
    place.until(lambda: plan().problems == ())


def test_a_problem_of_a_namespace_is_one_of_its_network_or_router() -> None:
    line = f"169.254.169.254:80 in qdhcp-{NETWORK.id}: cannot listen: Address already in use"
    assert scope_of(line) == ["network", NETWORK.id]
    assert scope_of(f"qrouter-{NETWORK.id}: nft: no") == ["router", NETWORK.id]
    assert scope_of("/var/lib/mdmw: no space left on device") is None


LISTENING = {"scope": ["network", "x"], "namespace": "n", "address": "::", "port": 80, "since": 1}
GOOD = {
    "version": 1,
    "pid": 1,
    "since": 2.5,
    "listeners": [],
    "plan": {
        "source": "neutron",
        "asked_at": 1,
        "applied_at": 0,
        "problems": [{"scope": ["network", "x"], "text": "no"}],
    },
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(GOOD))
    found = read(tmp_path / FILE)
    assert found
    assert found.plan
    assert found.plan.problems == (Problem(Scope("network", "x"), "no"),)
    assert found.is_running  # the process 1 always is


def test_no_file_is_no_mdmw_node(tmp_path: Path) -> None:
    assert read(tmp_path / FILE) is None


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.sampled_from(sorted(GOOD)), s),
    )
)
def test_whatever_the_file_has_in_it_there_is_no_other_error(tmp_path_factory, value) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "status"
    changed = {**GOOD, **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(changed))
    with contextlib.suppress(Unavailable):
        assert isinstance(read(path), NodeStatus)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"version": True}, "status.version"),
        ({"pid": True}, "status.pid"),
        ({"pid": 10**30}, "status.pid"),
        ({"pid": 2**31}, "status.pid"),
        ({"since": "1e400"}, "status.since"),
        ({"since": 10**400}, "status.since"),
        ({"since": float("nan")}, "status.since"),
        ({"listeners": [LISTENING | {"since": "nan"}]}, "status.listeners[0].since"),
        ({"listeners": [LISTENING | {"namespace": {"a": 1}}]}, "status.listeners[0].namespace"),
        ({"listeners": [LISTENING | {"address": None}]}, "status.listeners[0].address"),
        ({"listeners": [LISTENING | {"port": "80"}]}, "status.listeners[0].port"),
        ({"listeners": [LISTENING | {"scope": ["port", "x"]}]}, "status.listeners[0].scope[0]"),
        ({"plan": {"source": "neutron"}}, "status.plan"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_place(
    tmp_path: Path, change: dict[str, Any], place: str
) -> None:
    (tmp_path / FILE).write_text(json.dumps({**GOOD, "listeners": [LISTENING]}))
    assert read(tmp_path / FILE)
    (tmp_path / FILE).write_text(json.dumps(GOOD | change))
    with pytest.raises(Unavailable, match=re.escape(f"makes no sense: {place}")):
        read(tmp_path / FILE)


def test_a_process_id_that_means_many_processes_is_refused(tmp_path: Path) -> None:
    for pid in (0, -1, "1"):
        (tmp_path / FILE).write_text(json.dumps({**GOOD, "pid": pid}))
        with pytest.raises(Unavailable, match="no sense"):
            read(tmp_path / FILE)
