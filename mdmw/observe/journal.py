"""The journal of a request: what happened to the request on its way through the stages of a pipeline.

The first observing filter of a pipeline (access-log, metrics, introspect or trace) puts the journal into
the WSGI environ. The stages write into that journal, and observers read the journal when the request is over.
Without an observing filter there is no journal, and writing does nothing. No stage decides anything by it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter, time
from types import MappingProxyType
from typing import Protocol
from uuid import uuid4

from mdmw import wire
from mdmw.records import GLOBAL_REQUEST_ID, JOURNAL, OPENSTACK_REQUEST_ID, Environ, Instance, Source

#: What `note` counts. The set is closed, since the metrics have one series for each of these.
CONNECTED = "connected"  # a new connection to an upstream
FAILOVER = "failover"  # an address of an upstream that could not be connected to
RETRIED = "retried"  # a kept connection was dead, and the request was sent again
SECOND_PROOF = "second_proof"  # Nova refused the signature of the first secret (S-3)
RESOLVER_CALL = "resolver_call"  # a question to the back end of a resolver
RESOLVER_FAILURE = "resolver_failure"  # a question to the back end of a resolver that had no answer
FORGED = "forged"  # a header of a guest that claimed an identity and was removed
NOTES = (CONNECTED, FAILOVER, RETRIED, SECOND_PROOF, RESOLVER_CALL, RESOLVER_FAILURE, FORGED)

#: What the cache of the resolver had for a source; "" where there is no cache.
HIT, SNAPSHOT, MISS, STALE = "hit", "snapshot", "miss", "stale"
CACHE_OUTCOMES = (HIT, SNAPSHOT, MISS, STALE)

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_INVALID_VERSION = "ff"
_SAMPLED = 1
_ID_NAME = wire.REQUEST_ID.lower()
_ID_LENGTH = len(_ID_NAME)


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One span of one trace, as `traceparent` of the W3C has it.

    `trace_id` has 32 and `span_id` has 16 lower-case hex digits.
    https://www.w3.org/TR/trace-context/#traceparent-header
    """

    trace_id: str
    span_id: str
    is_sampled: bool

    def __str__(self) -> str:
        """The value of a `traceparent` header of version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"


class Finished(Protocol):
    """Takes the journals of requests that are over."""

    def add(self, journal: "Journal") -> None:
        """The request of this journal is over."""


class Journal:
    """One request. Durations are in seconds; `began` is of `time.perf_counter`, `time` is Unix time."""

    # Most requests leave these as they are, so the class has them and not each journal.
    time = 0.0  # when the request began; known when the request is over
    source: Source | None = None
    instance: Instance | None = None
    peer = ""
    status = 0
    sent = 0  # bytes of the body
    seconds = 0.0
    cache = ""
    error = ""  # class name of the domain error, or of the exception of a defect
    notes: Mapping[str, int] = MappingProxyType({})
    trace: TraceContext | None = None  # the span that the next hop is told
    parent_span = ""  # span id of the hop that called, if that hop is trusted
    finished: tuple["Finished", ...] = ()  # where the journal goes when the request is over

    def __init__(self, method: str, target: str, request_id: str = "") -> None:
        self.began = self._last = perf_counter()
        self.method = method
        self.target = target  # as the server gave it, with the query: never to be shown whole
        self.request_id = request_id or new_request_id()
        self.stages: dict[str, float] = {}  # stage -> seconds, in the order of the pipeline

    def ended(self, stage: str) -> None:
        """A stage has ended; the stage began when the one before it ended, or when the request began."""
        now = perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + (now - self._last)
        self._last = now

    def close(self) -> None:
        """The request is over."""
        self.seconds = perf_counter() - self.began
        self.time = time() - self.seconds


def new_request_id() -> str:
    """A request id as all of OpenStack spells it: `req-` and a random UUID."""
    return f"req-{uuid4()}"


def journal_of(environ: Environ) -> Journal | None:
    """The journal of the request, None where no filter observes."""
    journal: Journal | None = environ.get(JOURNAL)
    return journal


def note(journal: Journal | None, what: str, number: int = 1) -> None:
    """Count one of `NOTES` in a journal, if there is one."""
    if journal is not None:
        journal.notes = {**journal.notes, what: journal.notes.get(what, 0) + number}


def request_id_of(environ: Environ) -> str:
    """The id of the request: the one of its journal; without a journal one that stays in the environ."""
    journal = journal_of(environ)
    if journal is not None:
        return journal.request_id
    request_id: str = environ.get(OPENSTACK_REQUEST_ID) or new_request_id()
    environ[OPENSTACK_REQUEST_ID] = request_id
    return request_id


def note_error(environ: Environ, error: BaseException) -> str:
    """Write down what ended the request; returns the request id under which the logs have the error."""
    journal = journal_of(environ)
    if journal is not None:
        journal.error = type(error).__name__
    return request_id_of(environ)


# --- one request id, and one trace, through all processes that a request passes --------------------------


def parse(text: str) -> TraceContext | None:
    """The context in a `traceparent` header, None for a text that is not one.

    A header of a later version may have more at its end.
    """
    match = _TRACEPARENT.fullmatch(text)
    if match is None or match[1] == _INVALID_VERSION or (match[1] == "00" and match[5] is not None):
        return None
    if not int(match[2], 16) or not int(match[3], 16):
        return None
    return TraceContext(match[2], match[3], bool(int(match[4], 16) & _SAMPLED))


def trust_hop(environ: Environ) -> None:
    """Take the request id and the trace that the headers name.

    A filter calls this when the request comes from a hop that proved itself or that the operator trusts.
    What a guest says of an id or a trace counts for nothing.
    """
    journal = journal_of(environ)
    request_id = wire.request_id(environ.get(wire.REQUEST_ID_KEY, ""))
    if request_id:
        environ[GLOBAL_REQUEST_ID] = environ[OPENSTACK_REQUEST_ID] = request_id
    if journal is None:
        return
    journal.request_id = request_id or journal.request_id
    given = parse(environ.get(wire.TRACEPARENT_KEY, ""))
    if given is None:
        return
    journal.parent_span = given.span_id
    span_id = journal.trace.span_id if journal.trace else given.span_id
    journal.trace = TraceContext(given.trace_id, span_id, given.is_sampled)


def next_hop_headers(environ: Environ) -> wire.Headers:
    """The headers that tell the next hop the request id and the trace; none without a journal."""
    journal = journal_of(environ)
    if journal is None:
        return []
    headers = [(wire.REQUEST_ID, journal.request_id)]
    if journal.trace:
        headers.append((wire.TRACEPARENT, str(journal.trace)))
    return headers


def take_answer_id(headers: wire.Headers, environ: Environ) -> None:
    """Take the request id of the next hop's answer: a hop that did not trust our id has its own."""
    journal = journal_of(environ)
    if journal is None:
        return
    for name, value in headers:
        if len(name) == _ID_LENGTH and name.lower() == _ID_NAME:
            journal.request_id = wire.request_id(value) or journal.request_id
            environ[OPENSTACK_REQUEST_ID] = journal.request_id
