"""No descriptor of the keeper, which is root, stays open when a step after the one that opened it fails."""

import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mdmw.node import attachments as attachments_module
from mdmw.node.attachments import Attachment, Attachments
from mdmw.node.channel import FROM_PLANNER, Channel, pair
from mdmw.node.control import Control, ControlSession
from mdmw.node.listening import Listeners
from mdmw.node.loop import Loop
from mdmw.node.namespaces import Bind
from mdmw.node.plan_loop import ChildProcess, PlanLoop, Planner
from mdmw.node.workers import Generation, WorkerLink
from mdmw.records import Scope

NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
SCOPE = Scope("network", NETWORK)
BINDS = [Bind("127.0.0.1", 0)]


def open_descriptors() -> list[str]:
    gc.collect()
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # that of the listing
    return sorted(found)


def no_more(*_args: object, **_fields: object) -> None:
    raise OSError(24, os.strerror(24))


class FullLoop(Loop):
    """A loop that can watch nothing more."""

    def watch(self, descriptor: int, readable: Callable[[], None]) -> None:
        raise OSError(28, os.strerror(28))


@pytest.fixture
def child() -> Iterator[int]:
    """A process that waits."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def attachments(directory: Path, loop: Loop | None = None) -> Attachments:
    return Attachments(loop or Loop(), Listeners(lambda _: None), directory)


def record(directory: Path, pid: int, **changed: object) -> Path:
    began = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    fields = {"pid": pid, "began": began, "scope": ["network", NETWORK], "binds": [["0.0.0.0", 8001, None]]}
    path = directory / f"{NETWORK}.json"
    path.write_text(json.dumps(fields | changed))
    return path


# --- attachments ------------------------------------------------------------------------


def a_full_loop(_: pytest.MonkeyPatch, directory: Path) -> Attachments:
    return attachments(directory, FullLoop())


def a_namespace_that_cannot_be_entered(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Attachments:
    monkeypatch.setattr(attachments_module.namespaces, "listen_in", no_more)
    return attachments(directory)


def a_full_disk(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Attachments:
    monkeypatch.setattr(Path, "write_text", no_more)
    return attachments(directory)


def an_old_file_that_cannot_be_removed(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Attachments:
    made = attachments(directory)
    old = Attachment(NETWORK, os.getpid(), os.pidfd_open(os.getpid()))
    made.attach(old, os.open("/proc/self/ns/net", os.O_RDONLY), SCOPE, [])
    monkeypatch.setattr(Path, "unlink", no_more)
    return made


def names_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Attachments:
    made = attachments(directory)
    monkeypatch.setattr(made._names, "of", no_more)
    return made


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to enter a namespace")
@pytest.mark.parametrize(
    "fault",
    [
        a_full_loop,
        a_namespace_that_cannot_be_entered,
        a_full_disk,
        an_old_file_that_cannot_be_removed,
        names_that_cannot_be_read,
    ],
)
def test_an_attachment_that_fails_leaves_nothing_open(
    fault: Callable[[pytest.MonkeyPatch, Path], Attachments],
    tmp_path: Path,
    child: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither its pidfd, nor a listener, nor the file that would attach it again."""
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    made = fault(monkeypatch, tmp_path)
    before = open_descriptors()
    pidfds = sum("pidfd" in one for one in before)
    with pytest.raises(OSError, match=r"No space|Too many"):
        made.attach(Attachment(NETWORK, child, os.pidfd_open(child)), namespace, SCOPE, BINDS)
    monkeypatch.undo()
    assert sum("pidfd" in one for one in open_descriptors()) <= pidfds
    assert not [one for one in open_descriptors() if "socket" in one and one not in before]
    assert NETWORK not in made.by_name
    assert list(made._listeners) == []
    os.close(namespace)


def test_an_attachment_of_another_process_is_refused(tmp_path: Path, child: int) -> None:
    """A pidfd that is not that of the process with the id."""
    before = open_descriptors()
    made = attachments(tmp_path)
    inner = len(open_descriptors())
    with pytest.raises(ProcessLookupError):
        made.attach(Attachment(NETWORK, child, os.pidfd_open(os.getpid())), 0, SCOPE, BINDS)
    assert len(open_descriptors()) == inner
    del made
    assert open_descriptors() == before


@pytest.mark.parametrize("has_ended", [True, False])
def test_attachments_that_are_not_restored_leave_nothing_open(
    has_ended: bool, tmp_path: Path, child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 times: the process is a zombie, whose namespace cannot be opened; or its id is used again."""
    path = record(tmp_path, child) if has_ended else record(tmp_path, child, began=1)
    if has_ended:
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    text = path.read_text()
    made = attachments(tmp_path)
    before = open_descriptors()
    for _ in range(20):
        path.write_text(text)
        assert made.restore()
        assert not path.exists()
    assert open_descriptors() == before


def test_a_restored_attachment_that_the_loop_cannot_watch(tmp_path: Path, child: int) -> None:
    record(tmp_path, child)
    made = attachments(tmp_path, FullLoop())
    before = open_descriptors()
    assert made.restore()
    assert open_descriptors() == before
    assert list(made._listeners) == []


def test_a_damaged_file_that_cannot_be_removed(
    tmp_path: Path, child: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, and the keeper starts."""
    record(tmp_path, child, scope="x")
    monkeypatch.setattr(Path, "unlink", no_more)
    assert attachments(tmp_path).restore()
    assert "not attached again: the file is damaged" in caplog.text


def test_an_attachment_of_the_old_keeper_that_the_loop_cannot_watch(tmp_path: Path, child: int) -> None:
    made = attachments(tmp_path, FullLoop())
    before = open_descriptors()
    with pytest.raises(OSError, match="No space"):
        made.adopt(Attachment(NETWORK, child, os.pidfd_open(child)))
    assert open_descriptors() == before


def test_an_attachment_that_ends_where_nothing_can_be_removed(
    tmp_path: Path, child: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The listeners are closed all the same, and the keeper goes on."""
    made = attachments(tmp_path)
    before = open_descriptors()
    made.adopt(Attachment(NETWORK, child, os.pidfd_open(child)))
    monkeypatch.setattr(Path, "unlink", no_more)
    made._ended(NETWORK)
    assert open_descriptors() == before
    assert "the file of the attachment cannot be removed" in caplog.text


# --- processes of the keeper ------------------------------------------------------------


def start_nothing(_: socket.socket) -> int:
    raise BlockingIOError(11, os.strerror(11))


def start_no_process(_: socket.socket) -> int:
    return 2**22 + 1  # above the kernel's largest process id


@pytest.mark.parametrize("start", [start_nothing, start_no_process])
@pytest.mark.parametrize("loop", [Loop, FullLoop])
def test_a_process_that_cannot_be_started(start: Callable[[socket.socket], int], loop: type[Loop]) -> None:
    made = loop()
    before = open_descriptors()
    with pytest.raises(OSError):
        ChildProcess(made, start, FROM_PLANNER, lambda *_: None, lambda *_: None)
    if start is start_nothing or loop is FullLoop:
        with pytest.raises(OSError):
            Generation(made, start, 1, {}, Unheard())
    assert open_descriptors() == before
    assert made._selector.get_map() is None or len(made._selector.get_map()) == 0


class Unheard:
    """Hears what happens to a generation, and does nothing."""

    def generation_ready(self, generation: Generation) -> None:
        """Not here."""

    generation_over = generation_ready

    def generation_failed(self, generation: Generation, why: str) -> None:
        """Not here."""


def test_a_planner_that_cannot_be_started_is_refused() -> None:
    """It says so in one line, and nothing is raised in the loop."""
    said: list[str] = []
    planner = Planner(Loop(), start_nothing, None, lambda: said.append("ready"), said.append)  # type: ignore[arg-type]
    planner.renew()
    assert said == ["the planner cannot be started: [Errno 11] Resource temporarily unavailable"]


def test_a_plan_whose_process_cannot_be_started_is_tried_again() -> None:
    loop = PlanLoop(Loop(), start_nothing, 60.0, lambda _: None, lambda: True)
    before = open_descriptors()
    plan = os.memfd_create("plan", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(plan, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    loop.take_plan(plan)
    [problem] = loop.problems
    assert problem.startswith("the plan could not be applied (the process cannot be started: ")
    assert loop._new_plan == plan
    os.close(plan)
    assert open_descriptors() == before


def test_a_worker_that_cannot_be_forked_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The preloader does not read; then it does, a second later."""
    loop = Loop()
    theirs: list[socket.socket] = []

    def start(sock: socket.socket) -> int:
        theirs.append(sock.dup())
        return os.getpid()

    generation = Generation(loop, start, 1, {}, Unheard())
    before = open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(Channel, "send", no_more)
        generation._fork()
    assert open_descriptors() == before
    assert generation.workers == []
    assert "a worker cannot be forked" in caplog.text
    _, _, again = loop._timers[0]
    again()
    [worker] = generation.workers
    generation.end("stop")
    worker._channel.close()
    for sock in theirs:
        sock.close()


def test_a_worker_whose_process_cannot_be_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It serves, and the keeper says that it cannot kill it."""
    ours, its = pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ready: list[bool] = []
    loop = Loop()
    with its:
        WorkerLink(loop, ours, {}, lambda: ready.append(True), lambda *_: None)
        Channel(its, {}).send("ready")
        monkeypatch.setattr(os, "pidfd_open", no_more)
        loop.after(0.1, loop.stop)
        loop.run()
    ours.close()
    assert ready == [True]
    assert "the keeper cannot kill it if it hangs" in caplog.text


# --- the control socket -----------------------------------------------------------------


def test_a_control_socket_that_cannot_be_opened(tmp_path: Path) -> None:
    loop = Loop()
    before = open_descriptors()
    with pytest.raises(OSError):
        Control(loop, tmp_path / "missing" / "node.sock", None)  # type: ignore[arg-type]
    with pytest.raises(OSError):
        Control(FullLoop(), tmp_path / "node.sock", None)  # type: ignore[arg-type]
    del loop
    assert len(open_descriptors()) <= len(before)


def test_a_caller_that_the_loop_cannot_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hung up on, and the keeper goes on."""
    loop = Loop()
    control = Control(loop, tmp_path / "node.sock", None)  # type: ignore[arg-type]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.connect(str(tmp_path / "node.sock"))
        before = open_descriptors()
        monkeypatch.setattr(ControlSession, "__init__", no_more)
        control._accept()
        assert open_descriptors() == before
        assert caller.recv(1) == b""
    control.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mdmw-node needs root")
def test_a_run_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """Status 2 and one line."""
    (tmp_path / "file").touch()
    command = [sys.executable, "-c", "import sys; from mdmw.cli.node_daemon import main; sys.exit(main())"]
    words = ["--user", "nobody", "--run-dir", str(tmp_path / "file")]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("mdmw-node: [Errno 20] Not a directory: ")
    assert done.stderr.count("\n") == 1
