"""The desk of a process, and those who ask: real sockets, processes that end, hang, or lie."""

import contextlib
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stopping import stop

from mdmw.errors import Unavailable
from mdmw.observe import introspection
from mdmw.observe.introspection import Desk, provide
from mdmw.observe.processes import Reply, ask

PATIENCE = 20.0


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, because of the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="mdmw-") as name:
        yield Path(name) / "processes"


@pytest.fixture
def answerers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test provides ends with it."""
    monkeypatch.setattr(introspection, "_ANSWERERS", {})


@pytest.fixture
def here(directory: Path, answerers: None) -> Iterator[Desk]:
    """A desk in this process."""
    made = Desk(directory, "agent")
    made.open()
    yield made
    made.close()
    del introspection._DESKS[directory, "agent"]


def said(directory: Path, line: bytes) -> bytes:
    """What comes back on the desk of this process."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(directory / f"agent-{os.getpid()}.sock"))
        sock.sendall(line)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def one(replies: list[Reply]) -> Reply:
    (reply,) = replies
    return reply


def test_a_question_is_answered(directory: Path, here: Desk) -> None:
    provide("sum", lambda one, two=2: {"sum": one + two})
    assert one(ask(directory, "sum", one=1)) == Reply("agent", os.getpid(), {"sum": 3})
    assert one(ask(directory, "sum", one=1, two=4)).answer == {"sum": 5}


def test_who_provides_last_counts(directory: Path, here: Desk) -> None:
    provide("it", lambda: 1)
    provide("it", lambda: 2)
    assert one(ask(directory, "it")).answer == 2


def test_a_long_answer_arrives_whole(directory: Path, here: Desk) -> None:
    provide("much", lambda: ["x" * 1000] * 5000)
    assert one(ask(directory, "much")).answer == ["x" * 1000] * 5000


def test_errors_come_with_their_class(directory: Path, here: Desk, caplog: pytest.LogCaptureFixture) -> None:
    def unavailable() -> None:
        raise Unavailable("Neutron is away")

    def broken() -> None:
        raise ZeroDivisionError

    provide("unavailable", unavailable)
    provide("broken", broken)
    provide("unsayable", lambda: object())
    reply = one(ask(directory, "unavailable"))
    assert (reply.error, reply.problem, reply.is_heard) == ("Unavailable", "Neutron is away", True)
    reply = one(ask(directory, "nothing"))
    assert reply.error == "NotFound"
    assert "it can: broken, unavailable" in reply.problem
    assert one(ask(directory, "broken", what=1)).error == "BadRequest"
    for question in ("broken", "unsayable"):
        reply = one(ask(directory, question))
        assert (reply.error, "log" in reply.problem) == ("Defect", True)
        assert caplog.records[-1].exc_info


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(max_size=5), st.lists).map(json.dumps).map(str.encode)
)
def test_whatever_is_asked_one_line_comes_back(line: bytes) -> None:
    reply = introspection._reply(line.partition(b"\n")[0])
    assert reply.count(b"\n") == 1
    assert reply.endswith(b"\n")
    assert json.loads(reply)["error"] == "BadRequest"


def test_a_question_that_has_no_end_is_none(directory: Path, here: Desk) -> None:
    assert json.loads(said(directory, b"x" * 64 * 1024))["error"] == "BadRequest"
    assert json.loads(said(directory, b""))["error"] == "BadRequest"


def test_the_socket_is_for_its_user_alone(directory: Path, here: Desk) -> None:
    path = directory / f"agent-{os.getpid()}.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(directory.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_user_is_not_heard_whatever_the_modes(
    directory: Path, here: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    provide("secret", lambda: "something")
    directory.parent.chmod(0o755)
    directory.chmod(0o755)
    (directory / f"agent-{os.getpid()}.sock").chmod(0o666)
    script = (
        "import os, socket, sys; os.setuid(int(sys.argv[2])); s = socket.socket(socket.AF_UNIX);"
        's.connect(sys.argv[1]); s.sendall(b\'{"ask": "secret", "with": {}}\\n\');'
        "print(s.makefile().read())"
    )
    nobody = pwd.getpwnam("nobody").pw_uid
    command = [sys.executable, "-c", script, str(directory / f"agent-{os.getpid()}.sock"), str(nobody)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "something" not in done.stdout
    assert f"user {nobody} may not" in caplog.text


def test_a_slow_answer_keeps_nobody_else_waiting(directory: Path, here: Desk) -> None:
    done = threading.Event()
    provide("slow", lambda: done.wait(PATIENCE))
    provide("quick", lambda: 1)
    reply = one(ask(directory, "slow", timeout=0.1))
    assert (reply.problem, reply.is_heard) == ("no answer within 0.1 s", False)
    assert one(ask(directory, "quick")).answer == 1
    done.set()


def test_a_closed_desk_leaves_nothing_and_can_be_opened_again(directory: Path, here: Desk) -> None:
    provide("it", lambda: 1)
    here.close()
    assert list(directory.iterdir()) == []
    assert ask(directory, "it") == []
    here.open()
    here.open()
    assert one(ask(directory, "it")).answer == 1


def test_without_a_directory_there_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    made = Desk(tmp_path / "file" / "processes", "agent")
    made.open()
    made.open()
    assert caplog.text.count("no questions can be answered here: Not a directory") == 1
    made.close()
    del introspection._DESKS[tmp_path / "file" / "processes", "agent"]


# --- other processes --------------------------------------------------------------------

_PROGRAM = """
import os, sys, threading
from pathlib import Path
from mdmw.observe.introspection import Desk, open_all, provide
Desk(Path(sys.argv[1]), "proxy")
provide("pid", os.getpid)
open_all()
if sys.argv[2:] == ["fork"] and os.fork() == 0:
    open_all()
os.write(1, b"%d\\n" % os.getpid())  # whole, beside that of a sibling
threading.Event().wait()
"""


class Other:
    """A process with a desk."""

    def __init__(self, directory: Path, *words: str) -> None:
        command = [sys.executable, "-c", _PROGRAM, str(directory), *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.pids = [int(self.line()) for _ in range(2 if words else 1)]

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def start(directory: Path) -> Iterator[Any]:
    made: list[Other] = []

    def start(*words: str) -> Other:
        made.append(Other(directory, *words))
        return made[-1]

    yield start
    for other in made:
        other.end()


def test_all_processes_are_asked_at_the_same_time(directory: Path, start: Any) -> None:
    pids = sorted(start().process.pid for _ in range(3))
    assert [(reply.pid, reply.answer) for reply in ask(directory, "pid")] == [(pid, pid) for pid in pids]
    assert [reply.pid for reply in ask(directory, "pid", pid=pids[1])] == [pids[1]]
    assert [reply.pid for reply in ask(directory, "pid", pid=pids[1:])] == pids[1:]
    assert ask(directory, "pid", pid=()) == []
    assert ask(directory, "pid", pipelines=("agent",)) == []
    assert len(ask(directory, "pid", pipelines=("proxy",))) == 3


def test_a_process_that_is_killed_leaves_a_socket_which_goes_when_somebody_asks(
    directory: Path, start: Any
) -> None:
    other, left = start(), start()
    other.process.kill()
    other.process.wait()
    assert len(list(directory.iterdir())) == 2
    assert [reply.pid for reply in ask(directory, "pid")] == [left.process.pid]
    assert len(list(directory.iterdir())) == 1


def test_a_process_that_is_stopped_is_there_but_does_not_answer(directory: Path, start: Any) -> None:
    other, good = start(), start()
    stop(other.process.pid)
    began = time.monotonic()
    replies = {reply.pid: reply for reply in ask(directory, "pid", timeout=0.3)}
    assert time.monotonic() - began < PATIENCE
    assert replies[good.process.pid].answer == good.process.pid
    assert replies[other.process.pid].problem == "no answer within 0.3 s"
    os.kill(other.process.pid, signal.SIGCONT)
    assert len([reply for reply in ask(directory, "pid") if reply.answer]) == 2


def test_a_stopped_process_whose_queue_is_full_holds_nobody_up(directory: Path, start: Any) -> None:
    other = start()
    stop(other.process.pid)
    path = str(directory / f"proxy-{other.process.pid}.sock")
    waiting = []
    try:
        while True:
            sock = socket.socket(socket.AF_UNIX)
            waiting.append(sock)
            sock.setblocking(False)
            sock.connect(path)
    except BlockingIOError:
        reply = one(ask(directory, "pid", timeout=PATIENCE))
    finally:
        for sock in waiting:
            sock.close()
    assert reply.problem == "too many clients ask the process already, or the process hangs"


def test_a_process_that_forks_leaves_it_to_its_children(directory: Path, start: Any) -> None:
    other = start("fork")
    (child,) = [pid for pid in other.pids if pid != other.process.pid]
    assert [(reply.pid, reply.answer) for reply in ask(directory, "pid")] == [(child, child)]


def test_a_process_that_ends_takes_its_socket_along(directory: Path) -> None:
    script = _PROGRAM.replace("threading.Event().wait()", "")
    subprocess.run([sys.executable, "-c", script, str(directory)], check=True, stdout=subprocess.DEVNULL)
    assert list(directory.iterdir()) == []


def test_other_files_are_let_alone(directory: Path, here: Desk) -> None:
    provide("it", lambda: 1)
    for name in ("agent.sock", "README", "agent-x.sock", "agent-1.sock"):
        (directory / name).write_text("")
    (directory / "agent-2.sock").symlink_to(directory / f"agent-{os.getpid()}.sock")
    assert len(ask(directory, "it")) == 1
    assert len(list(directory.iterdir())) == 6


def test_no_directory_is_an_empty_one(tmp_path: Path) -> None:
    assert ask(tmp_path / "absent", "it") == []
