"""The keeper's side of planning: real processes that do what they should, and some that do not."""

import contextlib
import fcntl
import gc
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mdmw.cli.node_daemon import start_converge
from mdmw.node import plan_loop
from mdmw.node.channel import as_line, line
from mdmw.node.loop import Loop
from mdmw.node.namespaces import Bind
from mdmw.node.plan_loop import PlanLoop, Planner
from mdmw.records import Scope

_FIRST_PAUSE = 0.3
NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
PLACES = {"state": "/var/lib/x", "neutron_dhcp": None, "firewall": "nftables"}
_PROGRAM = """
import os, socket, sys, time
from pathlib import Path
from mdmw.node.channel import TO_CONVERGE, Channel
directory = Path({directory!r})
number = len(list(directory.glob("start-*")))
(directory / f"start-{{number}}").touch()
channel = Channel(socket.socket(fileno=3), TO_CONVERGE)
def memory(text, seals=15):
    import fcntl
    descriptor = os.memfd_create("plan", os.MFD_ALLOW_SEALING)
    os.write(descriptor, text)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
places = {places!r}
{work}
"""


class Stage:
    """A loop, and programs that are started in a directory where they leave their traces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = Loop()

    def start(self, work: str) -> Callable:
        """A `Start` for a program that does this; `number` is how many were started before it."""
        text = _PROGRAM.format(directory=str(self.directory), places=PLACES, work=textwrap.dedent(work))

        def started(channel) -> int:
            inherited = [(os.POSIX_SPAWN_DUP2, channel.fileno(), 3)]
            command = [sys.executable, "-c", text]
            return os.posix_spawn(sys.executable, command, os.environ, file_actions=inherited)

        return started

    @property
    def starts(self) -> int:
        return len(list(self.directory.glob("start-*")))

    def until(self, holds: Callable[[], bool], seconds: float = 10.0) -> None:
        """Run the loop until it holds."""
        deadline = time.monotonic() + seconds

        def look() -> None:
            if holds() or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.after(0.02, look)

        self.loop._running = True
        look()
        self.loop.run()
        assert holds()


def open_descriptors() -> int:
    gc.collect()  # the loops of other tests
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(plan_loop, "_FIRST_PAUSE", _FIRST_PAUSE)
    monkeypatch.setattr(plan_loop, "_EARLY_RUN", 0.1)
    monkeypatch.setattr(plan_loop, "_TICK", 0.05)
    (tmp_path / "netns").mkdir()
    monkeypatch.setattr(plan_loop, "RUN_NETNS", tmp_path / "netns")  # others may come and go
    yield Stage(tmp_path)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


# --- the planner ------------------------------------------------------------------------


class Heard:
    """What a planner made of what its processes said."""

    def __init__(self, stage: Stage, work: str) -> None:
        self.said: list[object] = []
        self.planner = Planner(
            stage.loop, stage.start(work), self, lambda: self.said.append("ready"), self.said.append
        )

    def set_places(self, places: object) -> None:
        self.said.append(places)

    def take_plan(self, descriptor: int) -> None:
        self.said.append(Path(f"/proc/self/fd/{descriptor}").read_bytes())
        os.close(descriptor)

    def confirm_plan(self) -> None:
        self.said.append("same")

    def report_trouble(self, why: str) -> None:
        self.said.append(f"doubt: {why}")


@contextlib.contextmanager
def planner(stage: Stage, work: str) -> Iterator[Heard]:
    heard = Heard(stage, work)
    heard.planner.renew()
    try:
        yield heard
    finally:
        heard.planner.end()


def test_what_a_planner_says(stage: Stage) -> None:
    work = """
    channel.send("places", **places)
    channel.send("plan", [memory(b"a plan")])
    channel.send("same")
    channel.send("trouble", why="no answer")
    time.sleep(60)
    """
    with planner(stage, work) as heard:
        stage.until(lambda: len(heard.said) == 5)
    assert heard.said == [PLACES, "ready", b"a plan", "same", "doubt: no answer"]


def test_a_planner_that_ends_is_started_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Not at once, and less and less often, as long as it does not do its work."""
    began = time.monotonic()
    with planner(stage, 'channel.send("places", **places)') as heard:
        stage.until(lambda: stage.starts == 3)
    assert time.monotonic() - began > 3 * _FIRST_PAUSE  # once that long, and then twice
    assert heard.said[:3] == [PLACES, "ready", PLACES]
    assert caplog.text.count("another is started, and the last plan stays in force") >= 2


@pytest.mark.parametrize(
    "work",
    [
        'channel.send("plan", [memory(b"a plan")])',
        'channel.send("same")',
        'channel.send("trouble", why="x")',
        'channel.send("report", actions=1, waiting=0)',
        "channel.sock.send(b'{')",
        "sys.exit(1)",
    ],
)
def test_a_planner_must_begin_with_its_places(stage: Stage, work: str) -> None:
    """The first one that does not is the end; no plan of it counts, and none of its files stays open."""
    before = open_descriptors()
    with planner(stage, work) as heard:
        stage.until(lambda: bool(heard.said))
    [why] = heard.said
    assert line(why)
    assert open_descriptors() == before


def test_places_are_said_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Later, who knows whom the process has met."""
    work = """
    channel.send("places", **places)
    if number == 0:
        channel.send("places", **{**places, "state": "/etc"})
    else:
        channel.send("same")
    time.sleep(60)
    """
    with planner(stage, work) as heard:
        stage.until(lambda: "same" in heard.said)
    assert heard.said == [PLACES, "ready", PLACES, "same"]
    assert "it sent 'places' at the wrong time" in caplog.text


def test_new_options_that_are_refused(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The planner before goes on; the next one with good options takes its place."""
    work = """
    if number == 1:
        channel.send("refused", why="option 'x'")
        sys.exit(2)
    channel.send("places", **places)
    while True:
        channel.send("trouble", why=str(number))
        time.sleep(0.05)
    """
    with planner(stage, work) as heard:
        stage.until(lambda: "doubt: 0" in heard.said)
        heard.planner.renew()
        stage.until(
            lambda: (
                "the planner keeps the options that it has; it cannot use the new ones: option 'x'"
                in caplog.text
            )
        )
        count = len(heard.said)
        stage.until(lambda: len(heard.said) > count)
        heard.planner.renew()
        stage.until(lambda: "doubt: 2" in heard.said)
        del heard.said[:]
        stage.until(lambda: heard.said.count("doubt: 2") > 2)
    assert "doubt: 0" not in heard.said
    assert "ready" not in heard.said


def test_options_that_are_refused_at_first(stage: Stage) -> None:
    with planner(stage, 'channel.send("refused", why="no such file")') as heard:
        stage.until(lambda: bool(heard.said))
    assert heard.said == ["no such file"]


# --- keeping a node as it is planned ----------------------------------------------------

_REPORT = 'channel.send("report", actions=0, waiting=0)'
_READ = """
message = channel.receive()
text = Path(f"/proc/self/fd/{message.descriptors[0]}").read_text()
"""


class Kept:
    """An loop, and what it wants to be listened to."""

    def __init__(self, stage: Stage, work: str, look_every: float = 60.0) -> None:
        self.wanted: list[dict[tuple[str, Bind], Scope]] = []
        self.may_act = True
        start = stage.start(_READ + textwrap.dedent(work))
        self.plan_loop = PlanLoop(stage.loop, start, look_every, self.wanted.append, lambda: self.may_act)
        self.plan_loop.set_places(PLACES)

    def offer(
        self, text: str, seals: int = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    ) -> None:
        descriptor = os.memfd_create("plan", os.MFD_ALLOW_SEALING)
        os.write(descriptor, text.encode())
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        self.plan_loop.take_plan(descriptor)


def test_a_plan_is_applied(stage: Stage) -> None:
    """Places and plan go to the process; what it says is to be listened to is listened to."""
    work = f"""
    assert message.fields == {PLACES!r}
    listener = [text, ["169.254.169.254", 80, None], ["network", {NETWORK!r}]]
    channel.send("listen", listeners=[listener])
    {_REPORT}
    """
    kept = Kept(stage, work)
    kept.offer("qdhcp-x")
    stage.until(lambda: bool(kept.wanted))
    assert kept.wanted == [{("qdhcp-x", Bind("169.254.169.254", 80)): Scope("network", NETWORK)}]
    assert kept.plan_loop.problems == []
    assert time.time() - kept.plan_loop.planned_at < 10


def test_the_newest_plan_wins(stage: Stage) -> None:
    """One process at a time; what is outdated before its turn is left out."""
    work = f"""
    os.mkdir(directory / "alone")
    with open(directory / "seen", "a") as seen:
        seen.write(text)
    time.sleep(0.3)
    os.rmdir(directory / "alone")
    {_REPORT}
    """
    kept = Kept(stage, work)
    before = open_descriptors()
    for text in "abc":
        kept.offer(text)
    stage.until(lambda: len(kept.wanted) == 2)
    assert (stage.directory / "seen").read_text() == "ac"
    assert kept.plan_loop.problems == []
    assert open_descriptors() == before + 1  # the plan in force


def test_it_looks_again(stage: Stage) -> None:
    kept = Kept(stage, _REPORT, look_every=0.1)
    kept.offer("a")
    stage.until(lambda: len(kept.wanted) == 3)


def test_it_looks_when_a_namespace_comes_or_goes(stage: Stage) -> None:
    """A second later; here, a tenth of it."""
    kept = Kept(stage, _REPORT)
    kept.offer("a")
    stage.until(lambda: len(kept.wanted) == 1)
    name = stage.directory / "netns" / "qdhcp-x"
    name.touch()
    stage.until(lambda: len(kept.wanted) == 2)
    name.unlink()
    stage.until(lambda: len(kept.wanted) == 3)


def test_waiting_for_ipv6(stage: Stage) -> None:
    """P-8: duplicate address detection takes a second or two; so it looks again soon."""
    kept = Kept(stage, 'channel.send("report", actions=1, waiting=int(number == 0))')
    kept.offer("a")
    stage.until(lambda: len(kept.wanted) == 2)


def test_a_problem_is_said_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """And tried again soon at first."""
    work = f"""
    if number < 2:
        channel.send("problem", what="no bridge; make it")
    {_REPORT}
    """
    kept = Kept(stage, work)
    kept.offer("a")
    stage.until(lambda: bool(kept.wanted))
    assert kept.plan_loop.problems == ["no bridge; make it"]
    with caplog.at_level("INFO"):
        stage.until(lambda: len(kept.wanted) == 3)
    assert caplog.text.count("no bridge") == 1
    assert "the node is as planned again" in caplog.text
    assert kept.plan_loop.problems == []


@pytest.mark.parametrize(
    "fault", ["os._exit(1)", "channel.send('places', **places)", "channel.sock.send(b'?')"]
)
def test_a_look_that_fails(stage: Stage, fault: str) -> None:
    """It is told, and done again; until then nothing else is listened to."""
    work = f"""
    channel.send("listen", listeners=[])
    if number == 0:
        {fault}
    {_REPORT}
    """
    kept = Kept(stage, work)
    kept.offer("a")
    stage.until(lambda: bool(kept.plan_loop.problems))
    assert kept.plan_loop.problems[0].startswith("the plan could not be applied (")
    assert kept.wanted == []
    stage.until(lambda: bool(kept.wanted))
    assert kept.plan_loop.problems == []


def test_a_plan_that_is_refused(stage: Stage) -> None:
    """The one in force stays, and is looked after."""
    work = f"""
    if text == "bad":
        channel.send("refused", why="dhcp: not a list")
        sys.exit()
    (directory / f"applied-{{number}}-{{text}}").touch()
    {_REPORT}
    """
    kept = Kept(stage, work, look_every=0.2)
    kept.offer("good")
    stage.until(lambda: bool(kept.wanted))
    kept.offer("bad")
    stage.until(lambda: bool(kept.plan_loop.problems))
    assert kept.plan_loop.problems == ["a plan is refused: dhcp: not a list"]
    count = len(kept.wanted)
    stage.until(lambda: len(kept.wanted) > count)
    assert {path.name.split("-")[2] for path in stage.directory.glob("applied-*")} == {"good"}


def test_a_plan_that_can_still_change(stage: Stage) -> None:
    """A file that is not sealed, or none in memory, is not even looked at."""
    kept = Kept(stage, _REPORT)
    before = open_descriptors()
    kept.offer("a", seals=fcntl.F_SEAL_WRITE)
    reader, writer = os.pipe()
    os.close(writer)
    kept.plan_loop.take_plan(reader)
    assert kept.plan_loop.problems == ["the planner sent a plan that is not sealed"]
    assert open_descriptors() == before
    kept.offer("a")
    stage.until(lambda: bool(kept.wanted))
    assert (stage.starts, kept.plan_loop.problems) == (1, [])


def test_not_while_another_keeper_has_the_say(stage: Stage) -> None:
    """Neither begun, nor is the result of one that had begun taken."""
    kept = Kept(stage, f"time.sleep(0.1)\n{_REPORT}", look_every=0.1)
    kept.offer("a")
    kept.may_act = False
    ended = time.monotonic() + 1
    stage.until(lambda: time.monotonic() > ended)
    assert (stage.starts, kept.wanted) == (1, [])
    kept.may_act = True
    stage.until(lambda: bool(kept.wanted))


def sealed(content: bytes, size: int = 0) -> int:
    descriptor = os.memfd_create("plan", os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    os.ftruncate(descriptor, max(size, len(content)))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor


@pytest.mark.parametrize(
    ("descriptor", "why"),
    [
        (lambda: sealed(b"{"), "Expecting property name"),
        (lambda: sealed(b"\xff\xfe"), "can't decode"),
        (lambda: sealed(b"[" * 100_000), "nested too deep"),
        (lambda: sealed(b"[]"), "not a Plan"),
        (lambda: sealed(b'{"dhcp": [], "routers": [{}]}'), "routers: not a RouterPlan"),
        (lambda: sealed(b"{}", 65 * 1024 * 1024), "more than"),
    ],
)
def test_no_plan_at_all(stage: Stage, tmp_path: Path, descriptor: Callable[[], int], why: str) -> None:
    """What root runs refuses it in one line, and touches nothing."""
    wanted: list[object] = []
    loop = PlanLoop(stage.loop, start_converge, 60.0, wanted.append, lambda: True)
    loop.set_places({**PLACES, "state": str(tmp_path / "state")})
    loop.take_plan(descriptor())
    stage.until(lambda: bool(loop.problems))
    [problem] = loop.problems
    assert problem.startswith("a plan is refused: ")
    assert why in problem
    assert wanted == []
    assert not (tmp_path / "state").exists()


def test_any_text_becomes_a_line() -> None:
    for text in ("a\nb", "\x1b[2J", "x" * 5000, "", "\ud800"):
        assert line(as_line(text))
