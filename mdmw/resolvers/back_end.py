"""A resolver as the cache sees it: absence is an answer, and after a failure there is a pause."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from mdmw.errors import NotIdentified, Unavailable
from mdmw.observe.journal import RESOLVER_CALL, RESOLVER_FAILURE, note
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.contract import Prefetching, Resolver
from mdmw.resolvers.snapshot import Snapshot

T = TypeVar("T")

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

    def instance(self, source: Source) -> Instance | Absent:
        """As `Resolver.resolve`."""
        return self._ask(source.scope, lambda: self._resolver.resolve(source, fresh=True))

    def snapshot(self, scope: Scope) -> Snapshot | Absent | None:
        """As `Prefetching.snapshot`."""
        return self._ask(scope, lambda: cast(Prefetching, self._resolver).snapshot(scope))

    def _ask(self, scope: Scope, question: Callable[[], T]) -> T | Absent:
        now = self._clock()
        failed, failure = self._failures.get(scope, (now, None))
        if failure is not None and now - failed < PAUSE:
            raise Unavailable(f"{failure} (a moment ago)", failure.retry_after)
        note(RESOLVER_CALL)
        try:
            return question()
        except NotIdentified as error:
            return Absent(str(error))
        except Unavailable as error:
            note(RESOLVER_FAILURE)
            now = self._clock()
            recent = {s: f for s, f in self._failures.copy().items() if now - f[0] < PAUSE}
            self._failures = recent | {scope: (now, Unavailable(str(error), error.retry_after))}
            raise
