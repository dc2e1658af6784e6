"""The desk of a process, and those who ask: real sockets, processes that end, hang, or lie."""

import contextlib
import gc
import json
import os
import pwd
import resource
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
from mdmw.filters import introspect
from mdmw.observe.introspection import Checks, IntrospectionSocket
from mdmw.observe.processes import Reply, ask

PATIENCE = 20.0


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, because of the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="mdmw-") as name:
        yield Path(name) / "processes"


@pytest.fixture
def here(directory: Path) -> Iterator[IntrospectionSocket]:
    """A socket of this process."""
    made = IntrospectionSocket(directory, "agent", {})
    made.open()
    yield made
    made.close()


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


def test_a_question_is_answered(directory: Path, here: IntrospectionSocket) -> None:
    here.also_answer("sum", lambda one, two=2: {"sum": one + two})
    assert one(ask(directory, "sum", one=1)) == Reply("agent", os.getpid(), {"sum": 3})
    assert one(ask(directory, "sum", one=1, two=4)).answer == {"sum": 5}


def test_a_question_can_be_answered_anew(directory: Path, here: IntrospectionSocket) -> None:
    here.also_answer("it", lambda: 1)
    here.also_answer("it", lambda: 2)
    assert one(ask(directory, "it")).answer == 2


def test_a_long_answer_arrives_whole(directory: Path, here: IntrospectionSocket) -> None:
    here.also_answer("much", lambda: ["x" * 1000] * 5000)
    assert one(ask(directory, "much")).answer == ["x" * 1000] * 5000


def test_errors_come_with_their_class(
    directory: Path, here: IntrospectionSocket, caplog: pytest.LogCaptureFixture
) -> None:
    def unavailable() -> None:
        raise Unavailable("Neutron is away")

    def broken() -> None:
        raise ZeroDivisionError

    here.also_answer("unavailable", unavailable)
    here.also_answer("broken", broken)
    here.also_answer("unsayable", lambda: object())
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
    reply = IntrospectionSocket(Path("/nowhere"), "agent", {})._reply(line.partition(b"\n")[0])
    assert reply.count(b"\n") == 1
    assert reply.endswith(b"\n")
    assert json.loads(reply)["error"] == "BadRequest"


def test_a_question_that_has_no_end_is_none(directory: Path, here: IntrospectionSocket) -> None:
    assert json.loads(said(directory, b"x" * 64 * 1024))["error"] == "BadRequest"
    assert json.loads(said(directory, b""))["error"] == "BadRequest"


def test_the_socket_is_for_its_user_alone(directory: Path, here: IntrospectionSocket) -> None:
    path = directory / f"agent-{os.getpid()}.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(directory.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_user_is_not_heard_whatever_the_modes(
    directory: Path, here: IntrospectionSocket, caplog: pytest.LogCaptureFixture
) -> None:
    here.also_answer("secret", lambda: "something")
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


def test_a_slow_answer_keeps_nobody_else_waiting(directory: Path, here: IntrospectionSocket) -> None:
    done = threading.Event()
    here.also_answer("slow", lambda: done.wait(PATIENCE))
    here.also_answer("quick", lambda: 1)
    reply = one(ask(directory, "slow", timeout=0.1))
    assert (reply.problem, reply.is_heard) == ("no answer within 0.1 s", False)
    assert one(ask(directory, "quick")).answer == 1
    done.set()


def test_a_closed_socket_leaves_nothing_and_can_be_opened_again(
    directory: Path, here: IntrospectionSocket
) -> None:
    here.also_answer("it", lambda: 1)
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
    made = IntrospectionSocket(tmp_path / "file" / "processes", "agent", {})
    made.open()
    made.open()
    assert caplog.text.count("this process cannot open its introspection socket: Not a directory") == 1
    made.close()


# --- other processes --------------------------------------------------------------------

_PROGRAM = """
import os, sys, threading
from mdmw.filters import introspect
def app(environ, start_response):
    start_response("200 OK", [])
    return [b""]
app.questions = {"pid": os.getpid}
whole = introspect.filter_factory({"mdmw_pipeline": "proxy"}, introspect_dir=sys.argv[1])(app)
whole.introspection.open()
if sys.argv[2:] == ["fork"] and os.fork() == 0:
    whole.introspection.open()
os.write(1, b"%d\\n" % os.getpid())  # whole, beside that of a sibling
threading.Event().wait()
"""


class Other:
    """A process with an introspection socket."""

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


def test_other_files_are_let_alone(directory: Path, here: IntrospectionSocket) -> None:
    here.also_answer("it", lambda: 1)
    for name in ("agent.sock", "README", "agent-x.sock", "agent-1.sock"):
        (directory / name).write_text("")
    (directory / "agent-2.sock").symlink_to(directory / f"agent-{os.getpid()}.sock")
    assert len(ask(directory, "it")) == 1
    assert len(list(directory.iterdir())) == 6


def test_no_directory_is_an_empty_one(tmp_path: Path) -> None:
    assert ask(tmp_path / "absent", "it") == []


# --- no more files, no more threads, two pipelines -------------------------------------------


@pytest.mark.parametrize("holds", ["a question", "none"])
def test_a_process_that_had_no_more_files_answers_again(
    directory: Path, here: IntrospectionSocket, holds: str
) -> None:
    """Too many open files, as in a storm, end neither the socket nor its thread."""
    here.also_answer("it", lambda: 1)
    client = socket.socket(socket.AF_UNIX)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        with contextlib.suppress(OSError):  # too many open files
            while True:
                files.append(os.dup(0))
        client.connect(str(directory / f"agent-{os.getpid()}.sock"))
        if holds == "a question":
            client.sendall(b'{"ask": "it", "with": {}}\n')
        threading.Event().wait(0.3)
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.close()
    assert one(ask(directory, "it", timeout=PATIENCE)).answer == 1


def test_a_process_that_had_no_more_threads_answers_all_the_same(
    directory: Path, here: IntrospectionSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.also_answer("it", lambda: 1)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "mdmw-introspection":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(40):  # more than can be answered at once, had each kept its place
            assert one(ask(directory, "it")).answer == 1
    assert one(ask(directory, "it")).answer == 1


def test_a_check_that_could_not_start_starts_later(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = Checks({"upstream": lambda: "all is well", "resolver": lambda: "here too"})

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            found = checks.answer()
            assert [one["ok"] for one in found.values()] == [False, False]
            assert "can't start new thread" in found["upstream"]["text"]
    assert [one["ok"] for one in checks.answer().values()] == [True, True]


def test_two_pipelines_of_one_process_answer_for_themselves(directory: Path) -> None:
    """Also two of one name: one pipeline that was loaded twice."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    def made(pipeline: str) -> Any:
        return introspect.filter_factory({"mdmw_pipeline": pipeline}, introspect_dir=str(directory))(app)

    one_, two, again = made("one"), made("two"), made("one")
    for whole, number in ((one_, 5), (two, 0), (again, 2)):
        whole.introspection.open()
        for _ in range(number):
            whole({"REQUEST_METHOD": "GET", "RAW_URI": "/"}, lambda *_: None)
    replies = ask(directory, "counters")
    served = {reply.pipeline: sum(scope["count"] for scope in reply.answer["scopes"]) for reply in replies}
    assert served == {"one": 5, "two": 0, "one.2": 2}
    del one_, whole
    gc.collect()
    pause = threading.Event()
    while {reply.pipeline for reply in ask(directory, "process")} != {"two", "one.2"}:
        assert not pause.wait(0.02)  # ended by the time limit of the test
    for whole in (two, again):
        whole.introspection.close()
