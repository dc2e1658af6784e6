"""The newest snapshot of each scope that guests asked from lately."""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

from mdmw.records import Scope
from mdmw.resolvers.back_end import Absent, BackEnd
from mdmw.resolvers.flight import Fact, Flights
from mdmw.resolvers.shared import SNAPSHOT, Group, Key, Shared
from mdmw.resolvers.snapshot import Snapshot

#: None when there are too many ports, `Absent` when the scope reaches nobody.
Prefetched = Snapshot | Absent | None

# Ports of all snapshots together, at about 1 KiB each.
_MOST_PORTS = 100_000


class Snapshots:
    """Fetches snapshots, one flight for each scope, and keeps each for `keep` seconds.

    `shared` is where other processes leave theirs; in a `group` of processes only one fetches.
    """

    def __init__(
        self,
        back_end: BackEnd,
        keep: float,
        shared: Shared | None = None,
        group: Group | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._back_end = back_end
        self._keep = keep
        self._shared = shared
        self._group = group
        self._clock = clock
        self._flights: Flights[Scope, Prefetched] = Flights()
        self._lock = threading.Lock()
        self._facts: dict[Scope, Fact[Prefetched]] = {}

    def known(self, scope: Scope) -> Fact[Prefetched] | None:
        """The newest one in this process, however old."""
        return self._facts.get(scope)

    def get(self, scope: Scope, since: float) -> Fact[Prefetched]:
        """One with `as_of >= since`; raises `Unavailable`."""
        return self._known_since(scope, since) or self._flights.share(
            scope, since, lambda: self._known_since(scope, since) or self._fetch(scope, since)
        )

    def forget(self, scope: Scope | None) -> int:
        """Drop the one of a scope, or all; how many there were. Answers that came from them count no more."""
        with self._lock:
            dropped = [fact for one, fact in self._facts.items() if scope in (None, one)]
            self._facts = {one: fact for one, fact in self._facts.items() if scope not in (None, one)}
        for fact in dropped:
            fact.mark.replaced = True
        return len(dropped)

    def _known_since(self, scope: Scope, since: float) -> Fact[Prefetched] | None:
        fact = self._facts.get(scope)
        return fact if fact is not None and fact.as_of >= since else None

    def _fetch(self, scope: Scope, since: float) -> Fact[Prefetched]:
        key = (SNAPSHOT, scope.kind, scope.id)
        with self._group.alone(key) if self._group else nullcontext():
            fact = self._of_others(key, since) or self._ask(key, scope)
        self._remember(scope, fact)
        return fact

    def _of_others(self, key: Key, since: float) -> Fact[Prefetched] | None:
        shared = self._shared.snapshot(key, since) if self._shared else None
        return None if shared is None else Fact(shared.value, shared.as_of)

    def _ask(self, key: Key, scope: Scope) -> Fact[Prefetched]:
        began = self._clock()
        snapshot = self._back_end.snapshot(scope)
        if self._shared and not isinstance(snapshot, Absent):
            self._shared.save_snapshot(key, snapshot, began)
        return Fact(snapshot, began)

    def _remember(self, scope: Scope, fact: Fact[Prefetched]) -> None:
        with self._lock:
            limit = self._clock() - self._keep
            kept = {s: f for s, f in self._facts.items() if s != scope and f.as_of >= limit}
            kept[scope] = fact  # the newest is the last
            excess = sum(map(_size, kept.values())) - _MOST_PORTS
            for oldest in [*kept][:-1]:
                if excess <= 0:
                    break
                excess -= _size(kept.pop(oldest))
            replaced = self._facts.get(scope)
            self._facts = kept
        if replaced is not None:
            replaced.mark.replaced = True


def _size(fact: Fact[Prefetched]) -> int:
    return len(fact.value.ports) if isinstance(fact.value, Snapshot) else 0
