"""The cache of snapshots: all ports of a network or router, fetched in one question for all guests."""

import threading
import time
from collections.abc import Callable

from mdmw.observe.journal import Journal
from mdmw.records import Scope
from mdmw.resolvers.back_end import BackEnd, Dated, NoInstance, SharedQuestions
from mdmw.resolvers.contract import Snapshot
from mdmw.resolvers.shared import SNAPSHOT_KEY, Key, ProcessGroup, SharedCache

#: None when the scope has too many ports, `NoInstance` when it has no network.
Prefetched = Snapshot | NoInstance | None

_MOST_PORTS = 100_000  # in all snapshots together; a port takes about 1 KiB


class SnapshotCache:
    """Fetches snapshots, one at a time for each scope, and keeps each of them for `keep` seconds.

    Processes share their snapshots in `shared`. In a `group` of processes one process fetches at a time.
    """

    def __init__(
        self,
        back_end: BackEnd,
        keep: float,
        shared: SharedCache | None = None,
        group: ProcessGroup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._back_end = back_end
        self._keep = keep
        self._shared = shared
        self._group = group
        self._clock = clock
        self._questions: SharedQuestions[Scope, Prefetched] = SharedQuestions()
        self._lock = threading.Lock()
        self._snapshots: dict[Scope, Dated[Prefetched]] = {}

    def known(self, scope: Scope) -> Dated[Prefetched] | None:
        """The newest snapshot in this process, however old; None without one."""
        return self._snapshots.get(scope)

    def get(self, scope: Scope, since: float, journal: Journal | None = None) -> Dated[Prefetched]:
        """A snapshot with `as_of >= since`; raises `Unavailable`."""
        return self._known_since(scope, since) or self._questions.share(
            scope, since, lambda: self._known_since(scope, since) or self._fetch(scope, since, journal)
        )

    def forget(self, scope: Scope | None) -> int:
        """Drop the snapshot of a scope, or all, and the entries from them; returns the number."""
        with self._lock:
            dropped = [found for one, found in self._snapshots.items() if scope in (None, one)]
            self._snapshots = {
                one: found for one, found in self._snapshots.items() if scope not in (None, one)
            }
        for found in dropped:
            found.replaced.is_set = True
        return len(dropped)

    def _known_since(self, scope: Scope, since: float) -> Dated[Prefetched] | None:
        found = self._snapshots.get(scope)
        return found if found is not None and found.as_of >= since else None

    def _fetch(self, scope: Scope, since: float, journal: Journal | None) -> Dated[Prefetched]:
        key = (SNAPSHOT_KEY, scope.kind, scope.id)
        found = self._from_others(key, since)
        if found is None and self._group and self._is_shareable(key):
            with self._group.exclusive(key):
                found = self._from_others(key, since)
                if found is None and self._is_shareable(key):
                    found = self._ask(key, scope, journal)
        if found is None:  # no process waits for a snapshot that cannot be shared
            found = self._ask(key, scope, journal)
        self._remember(scope, found)
        return found

    def _is_shareable(self, key: Key) -> bool:
        return self._shared is not None and self._shared.takes(key)

    def _from_others(self, key: Key, since: float) -> Dated[Prefetched] | None:
        shared = self._shared.snapshot(key, since) if self._shared else None
        return None if shared is None else Dated(shared.value, shared.as_of)

    def _ask(self, key: Key, scope: Scope, journal: Journal | None) -> Dated[Prefetched]:
        began = self._clock()
        snapshot = self._back_end.snapshot(scope, journal)
        if self._shared and not isinstance(snapshot, NoInstance):
            self._shared.save_snapshot(key, snapshot, began)
        return Dated(snapshot, began)

    def _remember(self, scope: Scope, found: Dated[Prefetched]) -> None:
        with self._lock:
            limit = self._clock() - self._keep
            kept = {s: f for s, f in self._snapshots.items() if s != scope and f.as_of >= limit}
            kept[scope] = found  # the newest is the last
            excess = sum(map(_ports_in, kept.values())) - _MOST_PORTS
            for oldest in [*kept][:-1]:
                if excess <= 0:
                    break
                excess -= _ports_in(kept.pop(oldest))
            replaced = self._snapshots.get(scope)
            self._snapshots = kept
        if replaced is not None:
            replaced.replaced.is_set = True


def _ports_in(found: Dated[Prefetched]) -> int:
    return len(found.value.ports) if isinstance(found.value, Snapshot) else 0
