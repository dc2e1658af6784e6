"""What happened to one request: written by whoever takes part, read when it is over.

The first observing filter of a pipeline (access-log, metrics, introspect) begins the journal. While its
request is in this thread or greenlet anybody can write into it with `note` and `note_error`;
without an observer these do nothing. Nobody decides anything by it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from types import MappingProxyType
from typing import Protocol

from mdmw.observe.ids import new_request_id
from mdmw.observe.trace_context import TraceContext
from mdmw.records import Instance, Source

#: What can be counted with `note`; a closed set, since metrics have a series for each.
CONNECTED = "connected"  # a new connection to an upstream
FAILOVER = "failover"  # an address of an upstream that could not be connected to
RETRIED = "retried"  # a kept connection was dead, and the request was sent again
SECOND_PROOF = "second_proof"  # Nova refused the first secret (S-3)
RESOLVER_CALL = "resolver_call"  # the back end of a resolver was asked
RESOLVER_FAILURE = "resolver_failure"  # and it had no answer
FORGED = "forged"  # headers that claim an identity, removed
NOTES = (CONNECTED, FAILOVER, RETRIED, SECOND_PROOF, RESOLVER_CALL, RESOLVER_FAILURE, FORGED)

#: What the cache had for a source; "" where there is no cache.
HIT, SNAPSHOT, MISS, STALE = "hit", "snapshot", "miss", "stale"
CACHE_OUTCOMES = (HIT, SNAPSHOT, MISS, STALE)


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
        #: When each stage ended, as `began`; it began when the one before it ended, or the request began.
        self.ends: list[tuple[str, float]] = []

    def close(self, epoch: float) -> None:
        """The request is over; `epoch` is 1970 on the clock of `began`."""
        self.time = self.began - epoch
        stages: dict[str, float] = {}
        before = self.began
        for stage, at in self.ends:
            stages[stage] = stages.get(stage, 0.0) + at - before
            before = at
        self.stages = stages


class Place:
    """Where a thread or greenlet has the journal of the request that it works for, or None.

    A `ContextVar` of journals would have to be set twice for each request, which takes longer.
    """

    __slots__ = ("journal",)

    def __init__(self) -> None:
        self.journal: Journal | None = None


_PLACE: ContextVar[Place | None] = ContextVar("mdmw.journal", default=None)


def here() -> Place:
    """For observers: the place of this thread or greenlet."""
    place = _PLACE.get()
    if place is None:
        place = Place()
        _PLACE.set(place)
    return place


@contextmanager
def kept(journal: Journal) -> Iterator[None]:
    """This journal is the current one, within the block."""
    place = here()
    before, place.journal = place.journal, journal
    try:
        yield
    finally:
        place.journal = before


def current() -> Journal | None:
    """The journal of the request that this thread or greenlet works for."""
    place = _PLACE.get()
    return place.journal if place else None


def note(what: str, number: int = 1) -> None:
    """Count one of `NOTES`."""
    journal = current()
    if journal is not None:
        journal.notes = {**journal.notes, what: journal.notes.get(what, 0) + number}


def note_cache(outcome: str) -> None:
    """What the cache had, one of `CACHE_OUTCOMES`; the last one counts."""
    journal = current()
    if journal is not None:
        journal.cache = outcome


def note_error(error: BaseException) -> str:
    """Remember what ended the request, and give the request id under which the logs have it."""
    journal = current()
    if journal is None:
        return new_request_id()
    journal.error = type(error).__name__
    return journal.request_id
