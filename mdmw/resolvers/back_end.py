"""A resolver as the cache sees it: absence is an answer, and after a failure there is a pause."""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from mdmw.errors import NotIdentified, Unavailable
from mdmw.observe.journal import RESOLVER_CALL, RESOLVER_FAILURE, Journal, note
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.contract import Prefetching, Resolver, Snapshot

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

#: Seconds that somebody waits for what another has asked: a guest's own proxy gives up after 30.
PATIENCE = 10.0


class Mark:
    """Tells all who hold it that what it belongs to was replaced by something newer."""

    __slots__ = ("replaced",)

    def __init__(self) -> None:
        self.replaced = False


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """What a back end said, and when it was asked for that: the start of the asking, monotonic seconds."""

    value: T
    as_of: float
    mark: Mark = field(default_factory=Mark, compare=False)


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.landed = threading.Event()
        self.fact: Fact[T] | None = None
        self.failure: Unavailable | None = None


class Flights(Generic[K, T]):
    """At most one asking under way for each key; whoever comes later waits for it."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._flights: dict[K, _Flight[T]] = {}

    def share(self, key: K, since: float, ask: Callable[[], Fact[T]]) -> Fact[T]:
        """A fact about `key` with `as_of >= since`: of a flight under way, or by `ask`, which must give one.

        Raises what `ask` raises. Those who wait for another share its `Unavailable`, and get
        one of their own when it takes too long; after any other error each asks for itself.
        """
        deadline = time.monotonic() + self._patience
        while True:
            with self._lock:
                flight = self._flights.get(key)
                if flight is None:
                    mine = self._flights[key] = _Flight()
                    break
            if not flight.landed.wait(max(0.0, deadline - time.monotonic())):
                raise Unavailable("the same look-up of somebody else takes too long")
            if flight.failure is not None:
                raise Unavailable(str(flight.failure), flight.failure.retry_after)
            if flight.fact is not None and flight.fact.as_of >= since:
                return flight.fact
        return self._fly(key, mine, ask)

    def _fly(self, key: K, flight: _Flight[T], ask: Callable[[], Fact[T]]) -> Fact[T]:
        try:
            flight.fact = ask()
        except Unavailable as error:
            flight.failure = error
            raise
        else:
            return flight.fact
        finally:
            with self._lock:
                del self._flights[key]
            flight.landed.set()


#: Seconds without a question about a scope after one failed; a guest is told to come back after 1 s.
PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Absent:
    """Nobody is there, and why; what `NotIdentified` says, as a value."""

    reason: str


class BackEnd:
    """Asks a resolver, past all that is remembered.

    `prefetches`: it has snapshots. `partial`: it finds more than its snapshots hold.
    """

    def __init__(self, resolver: Resolver, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolver = resolver
        self._clock = clock
        self._failures: dict[Scope, tuple[float, Unavailable]] = {}
        self.prefetches = hasattr(resolver, "snapshot")
        self.partial: bool = getattr(resolver, "partial", False)

    def instance(self, source: Source, journal: Journal | None = None) -> Instance | Absent:
        """As `Resolver.resolve`."""
        return self._ask(source.scope, lambda: self._resolver.resolve(source, fresh=True), journal)

    def snapshot(self, scope: Scope, journal: Journal | None = None) -> Snapshot | Absent | None:
        """As `Prefetching.snapshot`."""
        return self._ask(scope, lambda: cast(Prefetching, self._resolver).snapshot(scope), journal)

    def _ask(self, scope: Scope, question: Callable[[], T], journal: Journal | None) -> T | Absent:
        now = self._clock()
        failed, failure = self._failures.get(scope, (now, None))
        if failure is not None and now - failed < PAUSE:
            raise Unavailable(f"{failure} (a moment ago)", failure.retry_after)
        note(journal, RESOLVER_CALL)
        try:
            return question()
        except NotIdentified as error:
            return Absent(str(error))
        except Unavailable as error:
            note(journal, RESOLVER_FAILURE)
            now = self._clock()
            recent = {s: f for s, f in self._failures.copy().items() if now - f[0] < PAUSE}
            self._failures = recent | {scope: (now, Unavailable(str(error), error.retry_after))}
            raise
