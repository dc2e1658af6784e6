"""The cache in front of a resolver: which instance a source is (spec 2.7, R-11 to R-14).

An entry is for scope, address and MAC, and never for the address alone. Where the resolver has
snapshots, the first guest of a network fetches all ports of the network, and other guests are found in
this snapshot without a question. `CacheEntry.as_of` says when the back end was asked. After a 404 for an
older entry a filter can `refresh` the entry.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from oslo_config import cfg

from mdmw.errors import NotIdentified, Unavailable
from mdmw.observe.background import OncePerMinute
from mdmw.observe.journal import HIT, MISS, SNAPSHOT, STALE, Journal
from mdmw.observe.series import Measurement
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.back_end import BackEnd, Dated, NoInstance, ReplacedFlag, SharedQuestions
from mdmw.resolvers.contract import Resolver, Snapshot, wanted_mac
from mdmw.resolvers.shared import ProcessGroup, SharedCache
from mdmw.resolvers.snapshots import Prefetched, SnapshotCache

LOG = logging.getLogger(__name__)

# A snapshot of more ports is not fetched again for a single guest. It is fetched again when the questions
# about single guests would cost Neutron as much: 89 ms for each guest, against 147 ms for 400 ports.
_SMALL = 1000
_PORTS_FOR_A_QUESTION = 600

_Key = tuple[str, str, str, str | None]


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How long entries are used, in seconds, and the number of entries.

    `expiration` is for a source with an instance, `negative` for a source without one. `idle`: an
    address that was silent for longer may belong to another guest, and is looked up again unless its MAC
    was seen. `stale`: for so long after its expiration an entry is used while the back end fails.
    """

    expiration: float = 10.0
    negative: float = 1.0
    idle: float = 5.0
    stale: float = 30.0
    entries: int = 10_000


class CacheEntry:
    """What the cache remembers of one source: its instance, or None and the `reason`.

    Times are on the clock of the cache. `as_of`: when the back end was asked. `expires` and `last_used` are
    for this entry. `confirmed`: the guest has the MAC of the port. `replaced`: of the snapshot.
    """

    __slots__ = ("as_of", "confirmed", "expires", "instance", "last_used", "reason", "replaced")

    def __init__(
        self,
        found: Instance | NoInstance,
        as_of: float,
        replaced: ReplacedFlag,
        expires: float,
        last_used: float,
        confirmed: bool,
    ) -> None:
        self.instance = None if isinstance(found, NoInstance) else found
        self.reason = found.reason if isinstance(found, NoInstance) else ""
        self.as_of = as_of
        self.replaced = replaced
        self.expires = expires
        self.last_used = last_used
        self.confirmed = confirmed

    def identified(self) -> Instance:
        """The instance; raises `NotIdentified` without one."""
        if self.instance is None:
            raise NotIdentified(self.reason)
        return self.instance


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """What a snapshot has of a source. `ports` is the number of ports in it, None when it has too many."""

    as_of: float
    ports: int | None = None
    found: Instance | NoInstance | None = None


class Caching:
    """A resolver that remembers the answers of another resolver. Thread-safe; a hit takes no lock.

    `shared` and `group` are for several processes. `clock` returns seconds.
    """

    contract_version: ClassVar[int] = 1
    options: ClassVar[Sequence[cfg.Opt]] = ()

    def __init__(
        self,
        resolver: Resolver,
        limits: CacheLimits,
        shared: SharedCache | None = None,
        group: ProcessGroup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._idle = limits.idle
        self._shared = shared
        self.clock = clock
        self.resolver = resolver
        self._back_end = BackEnd(resolver, clock)
        keep = limits.expiration + limits.stale
        self._snapshots = SnapshotCache(self._back_end, keep, shared, group, clock)
        self._questions: SharedQuestions[_Key, Instance | NoInstance] = SharedQuestions()
        self._open = _OpenQuestions()
        self._entries = _Entries(limits.entries)
        self._lines = OncePerMinute(clock)

    def resolve(self, source: Source, *, fresh: bool = False, journal: Journal | None = None) -> Instance:
        """The one instance behind `source`; `fresh` asks the back end. Raises as `Resolver.resolve`."""
        return (self.refresh(source, journal) if fresh else self.find(source, journal)).identified()

    def measurements(self) -> Iterable[Measurement]:
        """The measurements of the resolver."""
        measurements: Iterable[Measurement] = getattr(self.resolver, "measurements", tuple)()
        return measurements

    def find(self, source: Source, journal: Journal | None = None, *, stale: bool = False) -> CacheEntry:
        """The entry of `source`; without a usable entry the back end is asked.

        `stale`: while the back end fails, an entry that has expired may be used (R-13).
        Raises `Unavailable` and `Contradiction`.
        """
        now = self.clock()
        scope = source.scope
        key = (scope.kind, scope.id, source.address, source.mac)
        entry = self._entries.get(key)
        if (
            entry is not None
            and now <= entry.expires
            and (entry.confirmed or now - entry.last_used <= self._idle)
            and not entry.replaced.is_set
        ):
            entry.last_used = now
            if journal is not None:
                journal.cache = HIT
            return entry
        try:
            new = self._look_up(source, key, entry, now, journal)
        except Unavailable as error:
            old = self._outdated(source, entry, now) if stale else None
            if old is None:
                raise
            if self._lines.due(scope):
                LOG.warning(
                    "%s: old answers are used, since the back end fails: %s (said once a minute)",
                    scope,
                    error,
                )
            if journal is not None:
                journal.cache = STALE
            return old
        self._entries.put(key, new)
        if journal is not None:
            journal.cache = MISS if new.as_of >= now else SNAPSHOT
        return new

    def refresh(self, source: Source, journal: Journal | None = None) -> CacheEntry:
        """A new entry of `source`, from a question that begins after this call (R-11); raises as `find`."""
        now = self.clock()
        scope = source.scope
        key = (scope.kind, scope.id, source.address, source.mac)
        known = self._snapshots.known(scope)
        entry = None
        if known is not None and (_ports(known) <= _SMALL or self._is_crowded(scope, known)):
            entry = self._read(self._snapshots.get(scope, now, journal), source, now)
        entry = entry or self._ask_for_one(source, key, now, now, journal)
        self._entries.put(key, entry)
        return entry

    def peek(self, source: Source) -> tuple[list[tuple[str | None, CacheEntry]], "SnapshotEntry | None"]:
        """The entries of a source with their MACs, and what the newest snapshot has. Nothing is asked.

        Without a MAC in `source` the entries for every MAC are returned.
        """
        entries = self._entries.of(source)
        dated = self._snapshots.known(source.scope)
        if dated is None:
            return entries, None
        if dated.value is None:
            return entries, SnapshotEntry(dated.as_of)
        return entries, SnapshotEntry(dated.as_of, int(_ports(dated)), _in_snapshot(dated.value, source))

    def purge(self, scope: Scope | None) -> tuple[int, bool]:
        """Forget a scope, or everything. Answers to questions that are under way may still be remembered.

        Returns the number of entries and snapshots of this process, and whether the shared cache was told.
        """
        shared = self._shared is not None and self._shared.purge(scope)
        return self._entries.forget(scope) + self._snapshots.forget(scope), shared

    def _look_up(
        self, source: Source, key: _Key, old: CacheEntry | None, now: float, journal: Journal | None
    ) -> CacheEntry:
        found = self._prefetched(source, old, now, journal) if self._back_end.prefetches else None
        return found or self._ask_for_one(source, key, now - self._idle, now, journal)

    def _prefetched(
        self, source: Source, old: CacheEntry | None, now: float, journal: Journal | None
    ) -> CacheEntry | None:
        """The entry of a source from a snapshot; None when the back end must be asked about this source."""
        scope, limits = source.scope, self._limits
        known = self._snapshots.known(scope)
        active = old is not None and old.instance is not None and now - old.last_used <= limits.idle
        since = now - (limits.expiration if active or _mac(source) else limits.idle)
        if known is not None and not self._is_worth(scope, known, since, now):
            return None
        dated = self._snapshots.get(scope, since, journal)
        entry = self._read(dated, source, now, old)
        if entry is None and self._is_crowded(scope, dated) and not self._back_end.partial:
            # The next snapshot has most of the missing guests. Another thread may be fetching it.
            newer = self._snapshots.get(scope, math.nextafter(dated.as_of, math.inf), journal)
            entry = self._read(newer, source, now, old)
            entry = entry or self._read(self._snapshots.get(scope, now, journal), source, now, old)
        return entry

    def _is_worth(self, scope: Scope, known: Dated[Prefetched], since: float, now: float) -> bool:
        """Whether to use snapshots, and to fetch a new one when the known one is older than `since`."""
        if known.value is None:
            return known.as_of < now - self._limits.expiration
        return known.as_of >= since or _ports(known) <= _SMALL or self._is_crowded(scope, known)

    def _is_crowded(self, scope: Scope, known: Dated[Prefetched]) -> bool:
        """Whether one question about all ports costs less than the open questions about single guests."""
        return self._open.count(scope) >= max(1.0, _ports(known) / _PORTS_FOR_A_QUESTION)

    def _read(
        self, dated: Dated[Prefetched], source: Source, now: float, old: CacheEntry | None = None
    ) -> CacheEntry | None:
        """The entry of `source` in a snapshot, or None when the snapshot is not enough.

        A snapshot that is older than the request is not enough when it has no port of the source, or a port
        with another MAC (the guest may be new), or when `old` is newer.
        """
        if dated.value is None:
            return None
        current = dated.as_of >= now
        found = _in_snapshot(dated.value, source)
        if isinstance(found, NoInstance):
            counts, confirmed = current and not self._back_end.partial, False
        else:
            mac = _mac(source)
            confirmed = isinstance(dated.value, Snapshot) and mac == dated.value.mac_of(found)
            counts = current or ((confirmed or not mac) and (old is None or old.as_of <= dated.as_of))
        return self._new_entry(found, dated.as_of, dated.replaced, now, confirmed) if counts else None

    def _ask_for_one(
        self, source: Source, key: _Key, since: float, now: float, journal: Journal | None
    ) -> CacheEntry:
        confirmed = wanted_mac(source) is not None
        with self._open.one_more(source.scope):
            dated = self._questions.share(key, since, lambda: self._fetch(source, key, since, journal))
        return self._new_entry(dated.value, dated.as_of, dated.replaced, now, confirmed)

    def _fetch(
        self, source: Source, key: _Key, since: float, journal: Journal | None
    ) -> Dated[Instance | NoInstance]:
        shared = self._shared.instance(key, since) if self._shared else None
        if shared is not None:
            return Dated(shared.value, shared.as_of)
        began = self.clock()
        found = self._back_end.instance(source, journal)
        if self._shared and isinstance(found, Instance):
            self._shared.save_instance(key, found, began)
        return Dated(found, began)

    def _outdated(self, source: Source, old: CacheEntry | None, now: float) -> CacheEntry | None:
        """R-13: an expired entry of `source` that may still be used."""
        limit = now - self._limits.expiration - self._limits.stale
        dated = self._snapshots.known(source.scope)
        entry = self._read(dated, source, now, old) if dated is not None else None
        entry = entry or old
        return entry if entry and entry.instance and entry.as_of >= limit else None

    def _new_entry(
        self, found: Instance | NoInstance, as_of: float, replaced: ReplacedFlag, now: float, confirmed: bool
    ) -> CacheEntry:
        lifetime = self._limits.negative if isinstance(found, NoInstance) else self._limits.expiration
        return CacheEntry(found, as_of, replaced, as_of + lifetime, now, confirmed)


class _Entries:
    """The entries. When there are too many, the tenth that was not used for the longest time goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._entries: dict[_Key, CacheEntry] = {}
        self.get = self._entries.get

    def put(self, key: _Key, entry: CacheEntry) -> None:
        with self._lock:
            self._entries[key] = entry
            if len(self._entries) > self._most:
                by_use = sorted(self._entries, key=lambda key: self._entries[key].last_used)
                for old in by_use[: len(by_use) - self._most + self._most // 10]:
                    del self._entries[old]

    def of(self, source: Source) -> list[tuple[str | None, CacheEntry]]:
        """The entries of a source with their MACs; for every MAC when `source` has none."""
        wanted = (source.scope.kind, source.scope.id, source.address)
        entries = self._entries.copy()
        return [
            (key[3], entry)
            for key, entry in entries.items()
            if key[:3] == wanted and source.mac in (None, key[3])
        ]

    def forget(self, scope: Scope | None) -> int:
        """Drop the entries of a scope, or all; returns their number."""
        with self._lock:
            keys = [key for key in self._entries if scope is None or key[:2] == (scope.kind, scope.id)]
            for key in keys:
                del self._entries[key]
        return len(keys)


class _OpenQuestions:
    """The number of questions about single guests that are under way, for each scope."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Scope, int] = {}

    def count(self, scope: Scope) -> int:
        return self._counts.get(scope, 0)

    @contextmanager
    def one_more(self, scope: Scope) -> Iterator[None]:
        self._add(scope, 1)
        try:
            yield
        finally:
            self._add(scope, -1)

    def _add(self, scope: Scope, number: int) -> None:
        with self._lock:
            count = self._counts.pop(scope, 0) + number
            if count:
                self._counts[scope] = count


def _ports(dated: Dated[Prefetched]) -> float:
    """The number of ports in a snapshot; infinity when they are too many to be fetched."""
    if dated.value is None:
        return math.inf
    return 0 if isinstance(dated.value, NoInstance) else len(dated.value.ports)


def _in_snapshot(snapshot: Snapshot | NoInstance, source: Source) -> Instance | NoInstance:
    if isinstance(snapshot, NoInstance):
        return snapshot
    try:
        return snapshot.resolve(source)
    except NotIdentified as error:
        return NoInstance(str(error))


def _mac(source: Source) -> str | None:
    """The MAC in the address, or else the MAC that a filter saw."""
    return wanted_mac(source) or source.mac
