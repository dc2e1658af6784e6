"""What each request does for those who observe it: its journal, and the filter that keeps one.

All of it while a guest waits, and with caches that others have filled: it is the memory it touches that
takes time. `_recording.c` is the same in C, which is used where it could be built, unless
MDMW_NO_EXTENSIONS is set in the environment.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from mdmw.observe.ids import new_request_id
from mdmw.observe.trace_context import TraceContext
from mdmw.records import INSTANCE, JOURNAL, SOURCE, Environ, Instance, Source
from mdmw.wire import REQUEST_ID

_STATUS_DIGITS = 3
_ID_NAME = REQUEST_ID.lower()
_ID_LENGTH = len(REQUEST_ID)


class Observer(Protocol):
    """Is told of requests, some at a time, a moment after they are over, in a thread for all observers."""

    def over(self, journals: "Sequence[Journal]") -> None:
        """These are over. Must not wait; raises OSError when they are lost, and others are told then too."""


class Journal:
    """One request. Times are seconds; `began` and `seconds` are of a clock that only counts.

    `time` and `stages` are there when it is over: when it began, since 1970, and the time in each
    stage of the pipeline, in their order.
    """

    # What most requests leave as it is costs nothing to have here.
    time = 0.0
    source: Source | None = None
    instance: Instance | None = None
    peer = ""
    status = 0
    sent = 0  # bytes of the body
    seconds = 0.0
    stages: Mapping[str, float] = MappingProxyType({})
    cache = ""
    error = ""  # class name of the domain error, or of a defect
    notes: Mapping[str, int] = MappingProxyType({})
    trace: TraceContext | None = None  # as the next hop is told
    parent_span = ""  # of the hop that called, if it is trusted
    observers: tuple[Observer, ...] = ()

    def __init__(self, method: str, target: str) -> None:
        self.began = perf_counter()
        self.method = method
        self.target = target  # as the server gave it, with the query: never to be shown whole
        self.request_id = new_request_id()
        self._ends: list[tuple[str, float]] = []

    def ended(self, stage: str) -> None:
        """Now a stage has ended, which began when the one before it ended, or the request began."""
        self._ends.append((stage, perf_counter()))

    def close(self, epoch: float) -> None:
        """The request is over; `epoch` is 1970 on the clock of `began`."""
        self.time = self.began - epoch
        stages: dict[str, float] = {}
        before = self.began
        for stage, at in self._ends:
            stages[stage] = stages.get(stage, 0.0) + (at - before)
            before = at
        self.stages = stages


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
    """A WSGI application that keeps a journal of each request for `observers`, and ends by `over` with it.

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
        journal.seconds = perf_counter() - journal.began
        self.over(journal)


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


if not TYPE_CHECKING and not os.environ.get("MDMW_NO_EXTENSIONS"):
    with suppress(ImportError):
        from mdmw.observe import _recording as in_c

        Journal, Place, Recording, here = in_c.Journal, in_c.Place, in_c.Recording, in_c.here
        os.register_at_fork(after_in_child=in_c.forget_ids)
