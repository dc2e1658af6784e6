"""Ask the serving processes of this host about themselves: the client of their introspection sockets.

All processes with a socket in a directory are asked at the same time. An answer is not trusted: the client
bounds its length, and `mdmw.observe.answers` checks its fields.
"""

import contextlib
import json
import selectors
import socket
import stat
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.observe.answers import checked_message
from mdmw.observe.introspection import SUFFIX
from mdmw.wire import printable

_LONGEST_ANSWER = 64 * 1024 * 1024  # bytes
_READ_AT_ONCE = 256 * 1024  # bytes
_LONGEST_PROBLEM = 300  # characters


@dataclass(frozen=True, slots=True)
class Reply:
    """What one process says: its `answer`, or else the `problem` in one line.

    `error` is the class name of an error that the process itself raised; it is empty if no answer came.
    """

    pipeline: str
    pid: int
    answer: Any = None
    problem: str = ""
    error: str = ""

    @property
    def is_heard(self) -> bool:
        """Whether the process has answered, with an answer or with an error."""
        return bool(not self.problem or self.error)


def ask(
    directory: Path,
    question: str,
    timeout: float = 2.0,
    pipelines: Sequence[str] = (),
    pid: int | Collection[int] | None = None,
    **arguments: Any,
) -> list[Reply]:
    """Ask every process, or only processes of some `pipelines` or process ids; one Reply of each.

    `timeout` is in seconds. The replies are in the order of pipelines and process ids. The socket of a
    process that has ended is removed. A directory that does not exist counts as empty; raises OSError if
    the directory cannot be read.
    """
    line = json.dumps({"ask": question, "with": arguments}).encode() + b"\n"
    pids = [pid] if isinstance(pid, int) else pid
    calls = [
        _Call(path, pipeline, number, question)
        for path, pipeline, number in _sockets(directory)
        if (not pipelines or pipeline in pipelines) and (pids is None or number in pids)
    ]
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for call in calls:
            stack.enter_context(call.sock)
            if call.send(line):
                selector.register(call.sock, selectors.EVENT_READ, call)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if key.data.receive():
                    selector.unregister(key.fileobj)
    return [call.reply(timeout) for call in calls if not call.has_no_process]


def _sockets(directory: Path) -> list[tuple[Path, str, int]]:
    """Path, pipeline and process id of each introspection socket."""
    found = []
    try:
        paths = list(directory.iterdir())
    except FileNotFoundError:
        return []
    for path in paths:
        pipeline, _, number = path.stem.rpartition("-")
        is_named_well = path.suffix == SUFFIX and pipeline.isprintable() and number.isascii()
        if is_named_well and pipeline and number.isdecimal() and _is_socket(path):
            found.append((path, pipeline, int(number)))
    return sorted(found, key=lambda entry: entry[1:])


def _is_socket(path: Path) -> bool:
    """Whether the path itself is a socket: root follows no link in a directory of another user."""
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False


class _Call:
    """The question to one process, and what the process has sent so far."""

    def __init__(self, path: Path, pipeline: str, pid: int, question: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.has_no_process = False
        self._path = path
        self._pipeline = pipeline
        self._pid = pid
        self._question = question
        self._data = bytearray()
        self._problem = ""

    def send(self, line: bytes) -> bool:
        """Send the question; False if this is not possible."""
        try:
            inode = self._path.lstat().st_ino
            self.sock.connect(str(self._path))
            self.sock.send(line)
        except FileNotFoundError:
            self.has_no_process = True
        except ConnectionRefusedError:
            self.has_no_process = True
            with contextlib.suppress(OSError):
                if self._path.lstat().st_ino == inode:
                    self._path.unlink()
        except BlockingIOError:
            self._problem = "too many clients ask the process already, or the process hangs"
        except OSError as error:
            self._problem = f"the process cannot be asked: {error.strerror}"
        else:
            return True
        return False

    def receive(self) -> bool:
        """Take what has arrived; True after the end of the answer."""
        try:
            data = self.sock.recv(_READ_AT_ONCE)
        except BlockingIOError:
            return False
        except OSError as error:
            self._problem = f"the answer of the process broke off: {error.strerror}"
            return True
        self._data += data
        if len(self._data) > _LONGEST_ANSWER:
            self._problem = "the answer of the process is too long"
        elif not data and not self._data.endswith(b"\n"):
            self._problem = "the process refused to answer, or has ended"
        return not data or bool(self._problem)

    def reply(self, timeout: float) -> Reply:
        """The reply after the end of the answer, or after `timeout` seconds."""
        if not self._problem and not self._data.endswith(b"\n"):
            self._problem = f"no answer within {timeout:g} s"
        if self._problem:
            return Reply(self._pipeline, self._pid, problem=self._problem)
        try:
            answer, error, text = checked_message(self._question, json.loads(self._data))
        except (ValueError, RecursionError) as wrong:
            why = "too deep" if isinstance(wrong, RecursionError) else wrong
            problem = _bounded(f"the answer of the process is malformed: {why}")
            return Reply(self._pipeline, self._pid, problem=problem)
        return Reply(self._pipeline, self._pid, answer, _bounded(text), error)


def _bounded(problem: str) -> str:
    """One line that a log, a terminal or a page can show."""
    text = printable(" ".join(problem.split()))
    return text if len(text) <= _LONGEST_PROBLEM else f"{text[:_LONGEST_PROBLEM]}..."
