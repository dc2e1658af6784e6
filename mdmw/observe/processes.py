"""Asking serving processes about themselves: all that have a socket in a directory, at the same time."""

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

from mdmw.observe.introspection import SUFFIX

_LONGEST_ANSWER = 64 * 1024 * 1024
_AT_ONCE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What one process says: `answer`, or else the `problem` in one line.

    `error` is the class name of an error that the process itself raised; it is empty when nothing was heard.
    """

    pipeline: str
    pid: int
    answer: Any = None
    problem: str = ""
    error: str = ""

    @property
    def is_heard(self) -> bool:
        """Whether the process has answered at all."""
        return bool(not self.problem or self.error)


def ask(
    directory: Path,
    question: str,
    timeout: float = 2.0,
    pipelines: Sequence[str] = (),
    pid: int | Collection[int] | None = None,
    **arguments: Any,
) -> list[Reply]:
    """Ask every process, or those of some `pipelines` or pids; a Reply from each, within `timeout` seconds.

    In the order of pipelines and pids. The socket of a process that has ended is removed. A
    directory that is not there is an empty one; raises OSError when it may not be read.
    """
    line = json.dumps({"ask": question, "with": arguments}).encode() + b"\n"
    pids = [pid] if isinstance(pid, int) else pid
    calls = [
        _Call(path, pipeline, number)
        for path, pipeline, number in _sockets(directory)
        if (not pipelines or pipeline in pipelines) and (pids is None or number in pids)
    ]
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for call in calls:
            stack.enter_context(call.sock)
            if call.begin(line):
                selector.register(call.sock, selectors.EVENT_READ, call)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if key.data.hear():
                    selector.unregister(key.fileobj)
    return [call.reply(timeout) for call in calls if not call.is_over]


def _sockets(directory: Path) -> list[tuple[Path, str, int]]:
    found = []
    try:
        paths = list(directory.iterdir())
    except FileNotFoundError:
        return []
    for path in paths:
        pipeline, _, number = path.stem.rpartition("-")
        if path.suffix == SUFFIX and pipeline and number.isdecimal() and _is_socket(path):
            found.append((path, pipeline, int(number)))
    return sorted(found, key=lambda entry: entry[1:])


def _is_socket(path: Path) -> bool:
    """Itself, not behind a link: root asks too, in directories of others."""
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False


class _Call:
    """One process, and what it has said so far."""

    def __init__(self, path: Path, pipeline: str, pid: int) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.is_over = False  # the process is not there any more
        self._path = path
        self._pipeline = pipeline
        self._pid = pid
        self._data = bytearray()
        self._problem = ""

    def begin(self, line: bytes) -> bool:
        """Send the question; False when that cannot be done."""
        try:
            inode = self._path.lstat().st_ino
            self.sock.connect(str(self._path))
            self.sock.send(line)
        except FileNotFoundError:
            self.is_over = True
        except ConnectionRefusedError:
            self.is_over = True
            with contextlib.suppress(OSError):
                if self._path.lstat().st_ino == inode:
                    self._path.unlink()
        except BlockingIOError:
            self._problem = "too many ask it already, or it hangs"
        except OSError as error:
            self._problem = f"cannot be asked: {error.strerror}"
        else:
            return True
        return False

    def hear(self) -> bool:
        """Take what has come; True when that was the last of it."""
        try:
            data = self.sock.recv(_AT_ONCE)
        except BlockingIOError:
            return False
        except OSError as error:
            self._problem = f"broke off: {error.strerror}"
            return True
        self._data += data
        if len(self._data) > _LONGEST_ANSWER:
            self._problem = "its answer is too long"
        elif not data and not self._data.endswith(b"\n"):
            self._problem = "it did not want to answer, or has ended"
        return not data or bool(self._problem)

    def reply(self, timeout: float) -> Reply:
        """What there is when the time is over."""
        if not self._problem and not self._data.endswith(b"\n"):
            self._problem = f"no answer within {timeout:g} s"
        if self._problem:
            return Reply(self._pipeline, self._pid, problem=self._problem)
        try:
            message = json.loads(self._data)
        except ValueError:
            return Reply(self._pipeline, self._pid, problem="its answer makes no sense")
        if "error" in message:
            return Reply(self._pipeline, self._pid, problem=message["text"], error=message["error"])
        return Reply(self._pipeline, self._pid, message["answer"])
