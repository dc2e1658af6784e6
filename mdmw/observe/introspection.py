"""Whether this process could serve a guest now: one check for each thing it depends on."""

import atexit
import inspect
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdmw.errors import BadRequest, MdmwError, NotFound
from mdmw.identity import peer_credentials
from mdmw.wire import one_line

LOG = logging.getLogger(__name__)

_REMEMBERED = 2.0  # seconds; however often somebody asks, the cloud is not asked more often
_PATIENCE = 5.0


class Check:
    """One of them. `look` says in a few words what is right, or raises `MdmwError`."""

    def __init__(self, look: Callable[[], str], remembered: float = _REMEMBERED) -> None:
        self._look = look
        self._remembered = remembered
        self._lock = threading.Lock()
        self._running: threading.Event | None = None
        self._result: dict[str, Any] = {}
        self._ended = -math.inf

    def begin(self) -> None:
        """Look again, in a thread, unless somebody is looking or did so a moment ago."""
        with self._lock:
            if self._running is None and time.monotonic() - self._ended >= self._remembered:
                self._running = threading.Event()
                threading.Thread(target=self._run, name="mdmw-check", daemon=True).start()

    def result(self, deadline: float) -> dict[str, Any]:
        """What was found, or that it takes too long; waits until `deadline` (monotonic) at most."""
        running = self._running
        if running is not None and not running.wait(max(deadline - time.monotonic(), 0)):
            return {"ok": False, "text": "no result in time", "seconds": _PATIENCE, "at": time.time()}
        return self._result

    def _run(self) -> None:
        at, began = time.time(), time.monotonic()
        try:
            text, ok = self._look(), True
        except MdmwError as error:
            text, ok = one_line(str(error)), False
        except Exception:
            LOG.exception("a check ended in a way that nobody meant")
            text, ok = "a defect; there is a traceback in the log of the process", False
        with self._lock:
            self._ended = time.monotonic()
            self._result = {"ok": ok, "text": text, "seconds": round(self._ended - began, 6), "at": at}
            running, self._running = self._running, None
        if running is not None:
            running.set()


_CHECKS: dict[str, Check] = {}


def provide_check(name: str, look: Callable[[], str]) -> None:
    """Have something checked; who provides it last counts."""
    _CHECKS[name] = Check(look)


def checks() -> dict[str, Any]:
    """The answer to `checks`: what is right, and what is not, by name; within 5 s."""
    deadline = time.monotonic() + _PATIENCE
    for check in _CHECKS.values():
        check.begin()
    return {name: check.result(deadline) for name, check in _CHECKS.items()}


SUFFIX = ".sock"
_MOST_AT_ONCE = 16  # questions that are being answered
_DESK_PATIENCE = 10.0  # seconds without a byte
_LONGEST_QUESTION = 64 * 1024

#: Takes the arguments of a question by name, and gives what JSON can say; raises `MdmwError`.
Answerer = Callable[..., Any]


class Desk:
    """The socket `PIPELINE-PID.sock` in `directory`. A process that cannot have one serves without."""

    def __init__(self, directory: Path, pipeline: str) -> None:
        self.is_open = False
        self._directory = directory
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        if older := _DESKS.get((directory, pipeline)):
            older.close()
        _DESKS[directory, pipeline] = self

    def open(self) -> None:
        """Answer from now on, in a thread of its own; safe to call twice."""
        with self._lock:
            if self.is_open:
                return
            self.is_open = True  # also when it fails: once is enough to say so
            try:
                self._listener = _listen(self._path())
            except OSError as error:
                LOG.warning(
                    "%s: no questions can be answered here: %s", self._directory, error.strerror or error
                )
                return
            threading.Thread(target=_serve, args=[self._listener], name="mdmw-desk", daemon=True).start()

    def close(self) -> None:
        """Answer no more, until it is opened again."""
        with self._lock:
            self.is_open = False
            if self._listener is not None:
                self._path().unlink(missing_ok=True)
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
                self._listener.close()
                self._listener = None

    def leave_to_parent(self) -> None:
        """In a forked child, which can open it for itself: threads do not come along."""
        self._lock = threading.Lock()
        self.is_open = False
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _path(self) -> Path:
        return self._directory / f"{self._pipeline}-{os.getpid()}{SUFFIX}"


_ANSWERERS: dict[str, Answerer] = {}
_DESKS: dict[tuple[Path, str], Desk] = {}


def provide(name: str, answerer: Answerer) -> None:
    """Have questions of this name answered; who provides it last counts."""
    _ANSWERERS[name] = answerer


def answer(name: str, arguments: dict[str, Any]) -> Any:
    """What this process answers; raises `MdmwError`."""
    answerer = _ANSWERERS.get(name)
    if answerer is None:
        raise NotFound(f"this process cannot be asked {name!r}; it can: {', '.join(sorted(_ANSWERERS))}")
    try:
        inspect.signature(answerer).bind(**arguments)
    except TypeError as error:
        raise BadRequest(f"{name}: {error}") from None
    return answerer(**arguments)


def open_all() -> None:
    """For whoever knows that this process is about to serve; others have it opened by their first request."""
    for desk in list(_DESKS.values()):
        desk.open()


def _close_all() -> None:
    """A process that forks after it was opened is the master of those that serve."""
    for desk in _DESKS.values():
        desk.close()


def _leave_all() -> None:
    for desk in _DESKS.values():
        desk.leave_to_parent()


os.register_at_fork(after_in_parent=_close_all, after_in_child=_leave_all)
atexit.register(_close_all)


# --- the socket -------------------------------------------------------------------------


def _listen(path: Path) -> socket.socket:
    """Raises OSError. The name appears when it can be connected to."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(_MOST_AT_ONCE)
        temporary.replace(path)
    except OSError:
        listener.close()
        raise
    return listener


def _serve(listener: socket.socket) -> None:
    room = threading.BoundedSemaphore(_MOST_AT_ONCE)
    while True:
        room.acquire()
        try:
            connection, _ = listener.accept()
        except OSError:  # it was closed
            return
        threading.Thread(target=_converse, args=[connection, room], name="mdmw-desk", daemon=True).start()


def _converse(connection: socket.socket, room: threading.BoundedSemaphore) -> None:
    try:
        with connection:
            connection.settimeout(_DESK_PATIENCE)
            if _is_trusted(connection):
                with connection.makefile("rwb") as file:
                    question = file.readline(_LONGEST_QUESTION)
                    file.write(_reply(question))
    except OSError as error:
        LOG.debug("who asked has gone: %s", error)
    finally:
        room.release()


def _is_trusted(connection: socket.socket) -> bool:
    uid = peer_credentials(connection).uid
    if uid in (0, os.geteuid()):
        return True
    LOG.warning("user %d may not ask this process about itself", uid)
    return False


def _reply(line: bytes) -> bytes:
    try:
        name, arguments = _question(line)
        return _line({"answer": answer(name, arguments)})
    except MdmwError as error:
        return _line({"error": type(error).__name__, "text": str(error)})
    except Exception:
        LOG.exception("a question could not be answered")
        return _line({"error": "Defect", "text": "there is a traceback in the log of the process"})


def _line(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply, separators=(",", ":")).encode() + b"\n"


def _question(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        question = json.loads(line)
        name, arguments = question["ask"], question["with"]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise BadRequest("not a question") from None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise BadRequest("not a question")
    return name, arguments
