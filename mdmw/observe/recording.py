"""What each request does for those who observe it: its journal, who keeps it, and where it waits.

All of it while a guest waits, and with caches that others have filled: it is the memory it touches that
takes time, instructions included. So journals wait until there are a few, and what is made of them is
made of all together. It is done in C where that could be built (`mdmw.observe.in_c`); this is the same
in Python.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from time import perf_counter, time
from types import MappingProxyType
from typing import Any, Protocol

from mdmw.observe.ids import new_request_id
from mdmw.observe.trace_context import TraceContext
from mdmw.records import INSTANCE, JOURNAL, SOURCE, Environ, Instance, Source
from mdmw.wire import REQUEST_ID

LOG = logging.getLogger(__name__)

_FEW = 64  # journals, of which most are still in some cache
_STATUS_DIGITS = 3
_ID_NAME = REQUEST_ID.lower()
_ID_LENGTH = len(REQUEST_ID)


class Observer(Protocol):
    """Is told of requests that are over, and a moment later has time to make something of them."""

    def over(self, journal: "Journal") -> None:
        """This one is over. Some guest waits meanwhile: take what is needed, and nothing else."""

    def flush(self) -> None:
        """Called a moment after it was told of requests, in a thread for all observers."""

    def forget(self) -> None:
        """In a forked child: what there is belongs to the parent."""


class Journal:
    """One request. Times are seconds; `began` is of a clock that only counts."""

    # What most requests leave as it is costs nothing to have here.
    time = 0.0  # when it began, since 1970; there when it is over
    source: Source | None = None
    instance: Instance | None = None
    peer = ""
    status = 0
    sent = 0  # bytes of the body
    seconds = 0.0
    cache = ""
    error = ""  # class name of the domain error, or of a defect
    notes: Mapping[str, int] = MappingProxyType({})
    trace: TraceContext | None = None  # as the next hop is told
    parent_span = ""  # of the hop that called, if it is trusted
    observers: tuple[Observer, ...] = ()

    def __init__(self, method: str, target: str) -> None:
        self.began = self._last = perf_counter()
        self.method = method
        self.target = target  # as the server gave it, with the query: never to be shown whole
        self.request_id = new_request_id()
        self.stages: dict[str, float] = {}  # time in each stage of the pipeline, in their order

    def ended(self, stage: str) -> None:
        """Now a stage has ended, which began when the one before it ended, or the request began."""
        now = perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + (now - self._last)
        self._last = now

    def close(self) -> None:
        """The request is over."""
        self.seconds = perf_counter() - self.began
        self.time = time() - self.seconds


class Place:
    """Where a thread or greenlet has the journal of the request that it works for, or None.

    A `ContextVar` of journals would have to be set twice for each request, which takes longer.
    """

    __slots__ = ("journal",)

    def __init__(self) -> None:
        self.journal: Journal | None = None


_PLACE: ContextVar[Place | None] = ContextVar("mdmw.place", default=None)


def here() -> Place:
    """The place of this thread or greenlet."""
    place = _PLACE.get()
    if place is None:
        place = Place()
        _PLACE.set(place)
    return place


class Recording:
    """A WSGI application that keeps a journal of each request for `observers`, and calls `over` with it.

    One within another adds its observers to the other's journals. Each answer has the request id.
    """

    def __init__(
        self, app: Callable[..., Any], observers: tuple[Observer, ...], over: Callable[[Journal], None]
    ) -> None:
        self.app = app
        self.observers = observers
        self.over = over

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        place = here()
        if place.journal is not None:
            place.journal.observers += self.observers
            nested: Iterable[bytes] = self.app(environ, start_response)
            return nested
        target = environ.get("REQUEST_URI") or environ.get("RAW_URI") or environ.get("PATH_INFO", "")
        journal = environ[JOURNAL] = Journal(environ.get("REQUEST_METHOD", ""), target)
        journal.observers = self.observers

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            journal.status = _number(status)
            for name, _ in headers:
                if len(name) == _ID_LENGTH and name.lower() == _ID_NAME:
                    break
            else:
                headers = [*headers, (REQUEST_ID, journal.request_id)]
            return start_response(status, headers, *exc_info)

        place.journal = journal
        try:
            body: Iterable[bytes] = self.app(environ, start)
        except BaseException as error:
            journal.error = type(error).__name__
            _take_records(journal, environ)
            self._end(journal)
            raise
        finally:
            place.journal = None
        _take_records(journal, environ)
        if not isinstance(body, list):
            return self.stream(body, journal)
        journal.sent = sum(map(len, body))
        self._end(journal)
        return body

    def stream(self, body: Iterable[bytes], journal: Journal) -> Iterable[bytes]:
        """A body on its way: what comes out of it ends the journal."""
        raise NotImplementedError

    def _end(self, journal: Journal) -> None:
        journal.close()
        self.over(journal)


class Waiting:
    """Where journals wait until there are a few, or until somebody has their observers told.

    `wake` is called with the first one, `told` with observers that were told of some.
    """

    _is_awake: bool

    def __init__(self, wake: Callable[[], None], told: Callable[[tuple[Observer, ...]], None]) -> None:
        self._wake = wake
        self._told = told
        self.forget()

    def add(self, journal: Journal) -> None:
        """This one is over."""
        self._journals.append(journal)
        if not self._is_awake:
            self._is_awake = True
            self._wake()
        if len(self._journals) >= _FEW:
            self.tell()

    def tell(self) -> None:
        """Have the observers told of those that wait."""
        with self._telling:
            self._is_awake = False
            journals = [self._journals.popleft() for _ in range(len(self._journals))]
            for observers, some in groupby(journals, attrgetter("observers")):
                together = list(some)
                for observer in observers:
                    _tell(observer, together)
                for journal in together:
                    journal.observers = ()
                self._told(observers)

    def forget(self) -> None:
        """In a forked child: those that wait are the parent's."""
        self._journals: deque[Journal] = deque()
        self._telling = threading.Lock()
        self._is_awake = False


def _tell(observer: Observer, journals: list[Journal]) -> None:
    for journal in journals:
        try:
            observer.over(journal)
        except Exception:  # a defect of an observer costs no guest its answer
            LOG.exception("an observer could not be told of %s", journal.request_id)


def _take_records(journal: Journal, environ: Environ) -> None:
    journal.peer = environ.get("REMOTE_ADDR") or ""  # hmac-verify puts the guest's here
    journal.source = environ.get(SOURCE)
    journal.instance = environ.get(INSTANCE)


@lru_cache(maxsize=256)
def _number(status: str) -> int:
    digits = status[:_STATUS_DIGITS]
    if len(digits) != _STATUS_DIGITS or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{status!r} is no status: three digits come first")
    return int(digits)

