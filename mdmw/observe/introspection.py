"""A serving process answers questions about itself: a unix socket, one JSON line in, one JSON line out.

A question is `{"ask": NAME, "with": {...}}`, its answer `{"answer": ...}` or `{"error": CLASS, "text": ...}`.
Only root and the user of the process are heard. The other side is `mdmw.observe.processes`.
"""

import errno
import inspect
import json
import logging
import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mdmw.errors import BadRequest, MdmwError, NotFound
from mdmw.identity import peer_credentials
from mdmw.wire import one_line

LOG = logging.getLogger(__name__)

SUFFIX = ".sock"
_MOST_AT_ONCE = 16  # questions that are being answered
_PATIENCE = 10.0  # seconds without a byte
_LONGEST_QUESTION = 64 * 1024
_ACCEPT_AGAIN = 0.1  # seconds after an error of accept, for example too many open files
_RESULT_COUNTS = 2.0  # seconds; however often somebody asks, the back end is not asked more often
_CHECKS_WITHIN = 5.0  # seconds
_MOST_OF_ONE_NAME = 100  # pipelines of one name in one process

#: Takes the arguments of a question by name, and gives what JSON can say; raises `MdmwError`.
Answerer = Callable[..., Any]


class Check:
    """Something that a process needs to serve a guest, looked at when somebody asks.

    `look` says in a few words what is right, or raises `MdmwError`. A result counts for `counts` seconds.
    """

    def __init__(self, look: Callable[[], str], counts: float = _RESULT_COUNTS) -> None:
        self._look = look
        self._counts = counts
        self._lock = threading.Lock()
        self._running: threading.Event | None = None
        self._result: dict[str, Any] = {}
        self._ended = -math.inf

    def begin(self) -> None:
        """Look again, in a thread, unless a look is under way or its result still counts."""
        with self._lock:
            if self._running is not None or time.monotonic() - self._ended < self._counts:
                return
            running = threading.Event()
            thread = threading.Thread(target=self._run, args=[running], name="mdmw-check", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads now; the next question tries again
                self._result = _result(False, f"the check cannot be started: {error}", 0.0)
                return
            self._running = running

    def result(self, deadline: float) -> dict[str, Any]:
        """The result; waits for it until `deadline` (`time.monotonic`) at most."""
        running = self._running
        if running is not None and not running.wait(max(deadline - time.monotonic(), 0)):
            return _result(False, "no result in time", _CHECKS_WITHIN)
        return self._result

    def _run(self, running: threading.Event) -> None:
        began = time.monotonic()
        try:
            text, ok = self._look(), True
        except MdmwError as error:
            text, ok = one_line(str(error)), False
        except Exception:
            LOG.exception("a check of this process has a defect")
            text, ok = "the check has a defect; the log of the process has a traceback", False
        with self._lock:
            self._ended = time.monotonic()
            self._result = _result(ok, text, self._ended - began)
            self._running = None
        running.set()


def _result(ok: bool, text: str, seconds: float) -> dict[str, Any]:
    return {"ok": ok, "text": text, "seconds": round(seconds, 6), "at": time.time() - seconds}


class Checks:
    """The checks of a pipeline, by name."""

    def __init__(self, looks: Mapping[str, Callable[[], str]]) -> None:
        self._checks = {name: Check(look) for name, look in looks.items()}

    def answer(self) -> dict[str, Any]:
        """The answer to the question `checks`: the result of each, by name; within 5 s."""
        deadline = time.monotonic() + _CHECKS_WITHIN
        for check in self._checks.values():
            check.begin()
        return {name: check.result(deadline) for name, check in self._checks.items()}


class IntrospectionSocket:
    """The socket `PIPELINE-PID.sock` in `directory`, on which a process answers `questions`.

    A second pipeline of the same name in one process is called `PIPELINE.2`. A process that cannot have a
    socket there says so in its log, and serves without. Each process of a server opens its own.
    """

    _is_open: bool
    _path: Path | None
    _listener: socket.socket | None

    def __init__(self, directory: Path, pipeline: str, questions: Mapping[str, Answerer]) -> None:
        self._questions = dict(questions)
        self._directory = directory
        self._pipeline = pipeline
        self._begin()
        # A process that forks after the socket was opened is the master of those that serve.
        close = weakref.WeakMethod(self.close)
        os.register_at_fork(after_in_parent=lambda: (method := close()) and method())

    @property
    def is_open(self) -> bool:
        """Whether `open` was called in this process, and `close` was not called since."""
        return self._is_open and self._pid == os.getpid()

    def also_answer(self, name: str, answerer: Answerer) -> None:
        """Answer one more question, which is about the process and not about the pipeline."""
        self._questions[name] = answerer

    def open(self) -> None:
        """Answer from now on, in a thread of its own; safe to call twice."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            if self._is_open:
                return
            self._is_open = True  # also when it fails: the log says it once
            try:
                self._path, self._listener = _listen(self._directory, self._pipeline)
                serve = threading.Thread(
                    target=_serve, args=[self._listener, self._reply], name="mdmw-introspection", daemon=True
                )
                serve.start()
            except (OSError, RuntimeError) as error:
                why = getattr(error, "strerror", None) or error
                LOG.warning("%s: this process cannot open its introspection socket: %s", self._directory, why)
                self._let_go()
                self._is_open = isinstance(error, OSError)  # a thread may be had later

    def close(self) -> None:
        """Answer no more, until the socket is opened again. In a forked child this does nothing."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._is_open = False
            self._let_go()

    def answer(self, name: str, arguments: dict[str, Any]) -> Any:
        """The answer to one question; raises `MdmwError`."""
        answerer = self._questions.get(name)
        if answerer is None:
            known = ", ".join(sorted(self._questions))
            raise NotFound(f"this process cannot be asked {name!r}; it can: {known}")
        try:
            inspect.signature(answerer).bind(**arguments)
        except TypeError as error:
            raise BadRequest(f"{name}: {error}") from None
        return answerer(**arguments)

    def _begin(self) -> None:
        """At first, and in a forked child: the socket and its thread are the parent's."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._is_open = False
        self._path = None
        self._listener = None

    def _let_go(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._listener.close()
        self._path = self._listener = None

    def _reply(self, line: bytes) -> bytes:
        try:
            name, arguments = _question(line)
            return _line({"answer": self.answer(name, arguments)})
        except MdmwError as error:
            return _line({"error": type(error).__name__, "text": str(error)})
        except Exception:
            LOG.exception("a question to the introspection socket could not be answered")
            return _line({"error": "Defect", "text": "the log of the process has a traceback"})


# --- the socket -------------------------------------------------------------------------


def _listen(directory: Path, pipeline: str) -> tuple[Path, socket.socket]:
    """The path and the listening socket; raises OSError. The name appears when it can be connected to."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(1, _MOST_OF_ONE_NAME):
        name = pipeline if number == 1 else f"{pipeline}.{number}"
        path = directory / f"{name}-{os.getpid()}{SUFFIX}"
        if not _is_answered(path):
            return path, _bind(path)
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _is_answered(path: Path) -> bool:
    """Whether another pipeline of this process has this socket; a process that is gone may have left it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_PATIENCE)
        return sock.connect_ex(str(path)) == 0


def _bind(path: Path) -> socket.socket:
    temporary = path.with_name(f"{path.name}.new")
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


def _serve(listener: socket.socket, reply: Callable[[bytes], bytes]) -> None:
    room = threading.BoundedSemaphore(_MOST_AT_ONCE)
    pause = threading.Event()
    while True:
        room.acquire()
        try:
            connection, _ = listener.accept()
        except OSError as error:
            room.release()
            if listener.fileno() < 0 or error.errno in (errno.EINVAL, errno.EBADF):
                return  # it was closed
            LOG.warning("the introspection socket could not accept a connection: %s", error.strerror)
            pause.wait(_ACCEPT_AGAIN)
            continue
        thread = threading.Thread(
            target=_converse, args=[connection, room, reply], name="mdmw-introspection", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads now: this thread answers
            _converse(connection, room, reply)


def _converse(
    connection: socket.socket, room: threading.BoundedSemaphore, reply: Callable[[bytes], bytes]
) -> None:
    try:
        with connection:
            connection.settimeout(_PATIENCE)
            if _is_trusted(connection):
                with connection.makefile("rwb") as file:
                    file.write(reply(file.readline(_LONGEST_QUESTION)))
    except OSError as error:
        LOG.debug("a client of the introspection socket has gone: %s", error)
    finally:
        room.release()


def _is_trusted(connection: socket.socket) -> bool:
    uid = peer_credentials(connection).uid
    if uid in (0, os.geteuid()):
        return True
    LOG.warning("user %d may not ask this process about itself", uid)
    return False


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
