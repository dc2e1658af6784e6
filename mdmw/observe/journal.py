"""What happened to one request: written by whoever takes part, read when it is over.

The first observing filter of a pipeline (access-log, metrics, introspect) begins the journal. While its
request is in this thread or greenlet anybody can write into it with `note` and `note_error`;
without an observer these do nothing. Nobody decides anything by it.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from time import perf_counter, time
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

    `stages` are there when it is over: the time in each stage of the pipeline, in their order.
    """

    # What most requests leave as it is costs nothing to have here.
    source: Source | None = None
    instance: Instance | None = None
    status = 0
    sent = 0  # bytes of the body
    seconds = 0.0
    cache = ""
    error = ""  # class name of the domain error, or of a defect
    notes: Mapping[str, int] = MappingProxyType({})
    trace: TraceContext | None = None  # as the next hop is told
    parent_span = ""  # of the hop that called, if it is trusted
    observers: tuple[Observer, ...] = ()

    def __init__(self, method: str, target: str, peer: str) -> None:
        self.time = time()
        self.began = perf_counter()
        self.method = method
        self.target = target  # as the server gave it, with the query: never to be shown whole
        self.peer = peer
        self.request_id = new_request_id()
        self.stages: dict[str, float] = {}
        #: When each stage ended, as `began`; it began when the one before it ended, or the request began.
        self.ends: list[tuple[str, float]] = []

    def close(self) -> None:
        """The request is over: make of the `ends` the `stages`."""
        stages: dict[str, float] = {}
        before = self.began
        for stage, at in self.ends:
            stages[stage] = stages.get(stage, 0.0) + at - before
            before = at
        self.stages = stages


_CURRENT: ContextVar[Journal | None] = ContextVar("mdmw.journal", default=None)

#: The journal of the request that this thread or greenlet works for, or None.
current = _CURRENT.get

#: For observers: make a journal the current one, and undo that.
enter = _CURRENT.set
leave = _CURRENT.reset


def note(what: str, number: int = 1) -> None:
    """Count one of `NOTES`."""
    journal = _CURRENT.get()
    if journal is not None:
        journal.notes = {**journal.notes, what: journal.notes.get(what, 0) + number}


def note_cache(outcome: str) -> None:
    """What the cache had, one of `CACHE_OUTCOMES`; the last one counts."""
    journal = _CURRENT.get()
    if journal is not None:
        journal.cache = outcome


def note_error(error: BaseException) -> str:
    """Remember what ended the request, and give the request id under which the logs have it."""
    journal = _CURRENT.get()
    if journal is None:
        return new_request_id()
    journal.error = type(error).__name__
    return journal.request_id
