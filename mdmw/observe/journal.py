"""What happened to one request: written by whoever takes part, read when it is over.

The first observing filter of a pipeline (access-log, metrics, introspect) begins the journal. While its
request is in this thread or greenlet anybody can write into it with `note` and `note_error`;
without an observer these do nothing. Nobody decides anything by it.
"""

import logging
import os
import random
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, repeat
from operator import attrgetter
from time import perf_counter, time
from types import MappingProxyType
from typing import Any, Protocol
from uuid import uuid4

from mdmw import wire
from mdmw.records import INSTANCE, JOURNAL, SOURCE, Environ, Instance, Source
from mdmw.wire import REQUEST_ID

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_INVALID_VERSION = "ff"
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One span of one trace; ids are lower-case hex, of 32 and 16 digits."""

    trace_id: str
    span_id: str
    is_sampled: bool

    def __str__(self) -> str:
        """As a header of version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"


def parse(text: str) -> TraceContext | None:
    """The context in a header, None for what is not one; a later version may say more at its end."""
    match = _HEADER.fullmatch(text)
    if match is None or match[1] == _INVALID_VERSION or (match[1] == "00" and match[5] is not None):
        return None
    if not int(match[2], 16) or not int(match[3], 16):
        return None
    return TraceContext(match[2], match[3], bool(int(match[4], 16) & _SAMPLED))


_FIRST, _END = 10**11, 10**12  # twelve decimal digits, which are hexadecimal ones too


def begin() -> tuple[str, int, int, int]:
    """For the request ids of a process: how they begin, the first number, and between which they go round."""
    return f"req-{uuid4()}"[:-12], _seeded().randrange(_FIRST, _END), _FIRST, _END


def _begin() -> int:
    global _prefix, _numbers
    _prefix, number, first, end = begin()
    _numbers = chain(range(number, end), chain.from_iterable(repeat(range(first, end))))
    return next(_numbers)


def _seeded() -> random.Random:
    return random.Random(os.urandom(32))  # noqa: S311 - ids are no secrets, they only must differ


def _seed(number: int) -> int:
    global _bits
    _bits = _seeded().getrandbits
    return _bits(number)


def _forget() -> None:
    """In a forked child: the parent's would go on with the same numbers."""
    global _numbers, _bits
    _numbers = iter(())
    _bits = _seed


_prefix = ""
_numbers: Iterator[int] = iter(())
_bits = _seed
os.register_at_fork(after_in_child=_forget)


def new_request_id() -> str:
    """As all of OpenStack spells it: `req-` and a UUID. A process counts in its last twelve digits."""
    number = next(_numbers, 0) or _begin()
    return _prefix + str(number)


def new_trace_id() -> str:
    """32 hex digits."""
    return f"{_bits(128):032x}"


def new_span_id() -> str:
    """16 hex digits."""
    return f"{_bits(64):016x}"


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
    return here().journal


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


_HOPS_ID_NAME = wire.REQUEST_ID.lower()
_HOPS_ID_LENGTH = len(_HOPS_ID_NAME)


def trust_hop(environ: Environ) -> None:
    """The request comes from a trusted hop: its id goes on, and its trace."""
    journal: Journal | None = environ.get(JOURNAL)
    if journal is None:
        return
    journal.request_id = wire.request_id(environ.get(wire.REQUEST_ID_KEY, "")) or journal.request_id
    given = parse(environ.get(wire.TRACEPARENT_KEY, ""))
    if given is None:
        return
    journal.parent_span = given.span_id
    span_id = journal.trace.span_id if journal.trace else given.span_id
    journal.trace = TraceContext(given.trace_id, span_id, given.is_sampled)


def next_hop_headers(environ: Environ) -> wire.Headers:
    """The headers for the next hop; none where nobody keeps a journal."""
    journal: Journal | None = environ.get(JOURNAL)
    if journal is None:
        return []
    headers = [(wire.REQUEST_ID, journal.request_id)]
    if journal.trace:
        headers.append((wire.TRACEPARENT, str(journal.trace)))
    return headers


def take_answer_id(headers: wire.Headers, environ: Environ) -> None:
    """The next hop answered with these; one that did not trust our id has its own, which then counts."""
    journal: Journal | None = environ.get(JOURNAL)
    if journal is None:
        return
    for name, value in headers:
        if len(name) == _HOPS_ID_LENGTH and name.lower() == _HOPS_ID_NAME:
            journal.request_id = wire.request_id(value) or journal.request_id
