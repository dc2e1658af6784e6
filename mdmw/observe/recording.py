"""Keeping a journal of each request, and telling observers of the requests that are over.

The observers of one pipeline are told of some requests together: what they make of a request touches much
memory, and so costs less when the processor has that memory in its caches already.
"""

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from os import getpid
from typing import Any, Protocol

from mdmw.observe.background import Background
from mdmw.observe.journal import Journal
from mdmw.records import INSTANCE, JOURNAL, OPENSTACK_REQUEST_ID, SOURCE, Environ
from mdmw.wire import REQUEST_ID

LOG = logging.getLogger(__name__)

_TOGETHER = 64  # requests of which observers are told at once; most of these are still in some cache
_IDS_AT_ONCE = 256
_LOOK_EVERY = 2.0  # seconds between two looks whether the pipeline is gone
_STATUS_DIGITS = 3
_ID_NAME = REQUEST_ID.lower()
_ID_LENGTH = len(REQUEST_ID)

App = Callable[..., Any]


class Observer(Protocol):
    """Makes something of the requests of one pipeline, for example a line in a log."""

    def over(self, journals: Sequence[Journal]) -> None:
        """These requests are over. A guest may wait meanwhile: neither write to a file nor wait."""

    def forget(self) -> None:
        """This process is a forked child: what was seen so far belongs to its parent."""

    def close(self) -> None:
        """The process or the pipeline ends: finish, within a few seconds at most."""


class FinishedRequests:
    """Where the journals of one pipeline wait until `observers` are told: until there are some, or a moment.

    Each process has its own. A forked child begins with none.
    """

    _ids: list[str]

    def __init__(self) -> None:
        self.observers: tuple[Observer, ...] = ()
        #: The pipeline is gone. Whatever thread finds that out may hold any lock, so it does nothing else.
        self.is_abandoned = False
        self._background = Background(self._work, "mdmw-observers", every=_LOOK_EVERY)
        self._begin()
        atexit.register(self.close)

    def new_id(self) -> str:
        """A request id that no guest can guess and no other process has."""
        if self._pid != getpid():
            self._begin()
            for observer in self.observers:
                observer.forget()
        try:
            return self._ids.pop()
        except IndexError:
            self._ids = _request_ids(_IDS_AT_ONCE)
            return self._ids.pop()

    def add(self, journal: Journal) -> None:
        """This request is over."""
        self._journals.append(journal)
        if len(self._journals) < _TOGETHER:
            self._background.ask()
        else:
            self.tell()

    def tell(self) -> None:
        """Tell the observers of the requests that are over, now."""
        with self._telling:
            journals = [self._journals.popleft() for _ in range(len(self._journals))]
            if not journals:
                return
            for observer in self.observers:
                try:
                    observer.over(journals)
                except Exception:  # a defect of an observer costs no guest its answer
                    LOG.exception("an observer could not take %d requests", len(journals))

    def close(self) -> None:
        """Tell the observers of what is left, and that this is the end."""
        atexit.unregister(self.close)
        if self._pid == getpid():
            self._background.close()
            self.tell()
            for observer in self.observers:
                observer.close()

    def abandon(self) -> None:
        """Have the thread of this process close what is here."""
        self.is_abandoned = True

    def _work(self) -> None:
        self.tell()
        if self.is_abandoned:
            self.close()

    def _begin(self) -> None:
        self._pid = getpid()
        self._journals: deque[Journal] = deque()
        self._telling = threading.Lock()
        self._ids = []


class Observed:
    """A WSGI filter that has `observer` told of each request. Each answer gets the request id as a header.

    Filters of this kind that stand side by side share one journal and one `FinishedRequests`, and so cost as
    much as one. One that stands further down adds its observer to the journal that an outer one keeps.
    """

    finished: FinishedRequests
    _next: App

    def __init__(self, app: App, observer: Observer) -> None:
        self.app = app
        self.observer = observer
        if isinstance(app, Observed):
            self.finished = app.finished
            self._next = app._next
        else:
            self.finished = FinishedRequests()
            self._next = app
            weakref.finalize(self, self.finished.abandon).atexit = False
        self.finished.observers = (observer, *self.finished.observers)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        finished = self.finished
        outer: Journal | None = environ.get(JOURNAL)
        if outer is not None:
            outer.finished += (finished,)
            nested: Iterable[bytes] = self._next(environ, start_response)
            return nested
        target = environ.get("REQUEST_URI") or environ.get("RAW_URI") or environ.get("PATH_INFO", "")
        journal = Journal(environ.get("REQUEST_METHOD", ""), target, finished.new_id())
        journal.finished = (finished,)
        environ[JOURNAL] = journal
        environ[OPENSTACK_REQUEST_ID] = journal.request_id

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            journal.status = _number(status)
            for name, _ in headers:
                if len(name) == _ID_LENGTH and name.lower() == _ID_NAME:
                    break
            else:
                headers = [*headers, (REQUEST_ID, journal.request_id)]
            return start_response(status, headers, *exc_info)

        try:
            body: Iterable[bytes] = self._next(environ, start)
        except BaseException as error:
            journal.error = type(error).__name__
            _take_records(journal, environ)
            _end(journal)
            raise
        _take_records(journal, environ)
        if not isinstance(body, list):
            return _Counted(body, journal)
        journal.sent = sum(map(len, body))
        _end(journal)
        return body

    def flush(self) -> None:
        """Tell the observers of the requests that are over, now."""
        self.finished.tell()


class _Counted:
    """A body on its way; the request is over when the server closes the body."""

    def __init__(self, body: Iterable[bytes], journal: Journal) -> None:
        self._body = body
        self._journal = journal
        self._is_over = False

    def __iter__(self) -> Iterator[bytes]:
        journal = self._journal
        try:
            for piece in self._body:
                journal.sent += len(piece)
                yield piece
        except Exception as error:
            journal.error = type(error).__name__
            raise

    def close(self) -> None:
        try:
            if (close := getattr(self._body, "close", None)) is not None:
                close()
        finally:
            if not self._is_over:
                self._is_over = True
                _end(self._journal)


def _end(journal: Journal) -> None:
    journal.close()
    for finished in journal.finished:
        finished.add(journal)


def _take_records(journal: Journal, environ: Environ) -> None:
    journal.peer = environ.get("REMOTE_ADDR") or ""  # hmac-verify puts the guest's address here
    journal.source = environ.get(SOURCE)
    journal.instance = environ.get(INSTANCE)


def _request_ids(number: int) -> list[str]:
    """Random UUIDs, version 4. One system call makes many: each call lets other threads run."""
    digits = os.urandom(16 * number).hex()
    return [
        f"req-{d[:8]}-{d[8:12]}-4{d[13:16]}-{'89ab'[int(d[16], 16) & 3]}{d[17:20]}-{d[20:]}"
        for d in (digits[at : at + 32] for at in range(0, len(digits), 32))
    ]


@lru_cache(maxsize=256)
def _number(status: str) -> int:
    digits = status[:_STATUS_DIGITS]
    if len(digits) != _STATUS_DIGITS or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{status!r} is no status: three digits come first")
    return int(digits)
