"""Remembering which instance a source is (spec 2.7, R-11 to R-14).

An answer is remembered for its scope, address and MAC, never for the address alone. Where the
resolver has snapshots, the first guest of a network fetches all its ports, and the others are
found in them without a question. `Answer.as_of` says when the back end was asked: whoever
gets a 404 for an older one can ask `again`.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, ClassVar

from oslo_config import cfg

from mdmw.errors import ConfigError, NotIdentified, Unavailable
from mdmw.observe.background import OncePerMinute
from mdmw.observe.journal import HIT, MISS, SNAPSHOT, STALE, Journal
from mdmw.observe.series import Measurement
from mdmw.options import refuse
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.back_end import Absent, BackEnd, Fact, Flights, Mark
from mdmw.resolvers.contract import Resolver, Snapshot, wanted_mac
from mdmw.resolvers.shared import SNAPSHOT_KEY, DirectoryStore, Group, Key, Shared, group_directory

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

    def get(self, scope: Scope, since: float, journal: Journal | None = None) -> Fact[Prefetched]:
        """One with `as_of >= since`; raises `Unavailable`."""
        return self._known_since(scope, since) or self._flights.share(
            scope, since, lambda: self._known_since(scope, since) or self._fetch(scope, since, journal)
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

    def _fetch(self, scope: Scope, since: float, journal: Journal | None) -> Fact[Prefetched]:
        key = (SNAPSHOT_KEY, scope.kind, scope.id)
        fact = self._of_others(key, since)
        if fact is None and self._group and self._is_shareable(key):
            with self._group.alone(key):
                fact = self._of_others(key, since)
                if fact is None and self._is_shareable(key):
                    fact = self._ask(key, scope, journal)
        if fact is None:  # nobody waits for an answer that cannot be shared
            fact = self._ask(key, scope, journal)
        self._remember(scope, fact)
        return fact

    def _is_shareable(self, key: Key) -> bool:
        return self._shared is not None and self._shared.takes(key)

    def _of_others(self, key: Key, since: float) -> Fact[Prefetched] | None:
        shared = self._shared.snapshot(key, since) if self._shared else None
        return None if shared is None else Fact(shared.value, shared.as_of)

    def _ask(self, key: Key, scope: Scope, journal: Journal | None) -> Fact[Prefetched]:
        began = self._clock()
        snapshot = self._back_end.snapshot(scope, journal)
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


LOG = logging.getLogger(__name__)

# A snapshot with more ports is not fetched again for the sake of one guest, but for as many as
# would cost Neutron the same when asked for one by one: 89 ms each, against 147 ms for 400 ports.
_SMALL = 1000
_PORTS_FOR_A_QUESTION = 600

_Key = tuple[str, str, str, str | None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long answers count, in seconds, and how many are kept.

    `idle`: an address that was silent for longer may belong to another guest by now, and is
    looked up anew unless its MAC was seen.
    """

    expiration: float = 10.0
    negative: float = 1.0
    idle: float = 5.0
    stale: float = 30.0
    entries: int = 10_000


class Answer:
    """What is remembered of one source: its instance, or None and the `reason`.

    `sure`: the MAC that was seen is that of the port. `used`: when it was last given.
    """

    __slots__ = ("as_of", "instance", "mark", "reason", "sure", "until", "used")

    def __init__(
        self, found: Instance | Absent, as_of: float, mark: Mark, until: float, used: float, sure: bool
    ) -> None:
        self.instance = None if isinstance(found, Absent) else found
        self.reason = found.reason if isinstance(found, Absent) else ""
        self.as_of = as_of
        self.mark = mark
        self.until = until
        self.used = used
        self.sure = sure

    def identified(self) -> Instance:
        """The instance; raises `NotIdentified`."""
        if self.instance is None:
            raise NotIdentified(self.reason)
        return self.instance


@dataclass(frozen=True, slots=True)
class InSnapshot:
    """What a snapshot says of a source. `ports` is how many are in it; None: too many to be fetched."""

    as_of: float
    ports: int | None = None
    found: Instance | Absent | None = None


class Caching:
    """A resolver that remembers what another one said. Called from many threads; a hit takes no lock."""

    contract_version: ClassVar[int] = 1
    options: ClassVar[Sequence[cfg.Opt]] = ()

    def __init__(
        self,
        resolver: Resolver,
        limits: Limits,
        shared: Shared | None = None,
        group: Group | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._idle = limits.idle
        self._shared = shared
        self.clock = clock
        self.resolver = resolver
        self._back_end = BackEnd(resolver, clock)
        keep = limits.expiration + limits.stale
        self._snapshots = Snapshots(self._back_end, keep, shared, group, clock)
        self._flights: Flights[_Key, Instance | Absent] = Flights()
        self._alone = _Alone()
        self._answers = _Recent(limits.entries)
        self._lines = OncePerMinute(clock)

    def resolve(self, source: Source, *, fresh: bool = False, journal: Journal | None = None) -> Instance:
        """The one instance behind `source`; `fresh` asks the back end."""
        return (self.again(source, journal) if fresh else self.find(source, journal)).identified()

    def measurements(self) -> Iterable[Measurement]:
        """What the resolver measures."""
        measurements: Iterable[Measurement] = getattr(self.resolver, "measurements", tuple)()
        return measurements

    def find(self, source: Source, journal: Journal | None = None, *, stale: bool = False) -> Answer:
        """What is remembered of `source`; else the back end is asked, and `as_of` is not before the call.

        `stale`: rather than fail, an answer that expired a while ago will do (R-13).
        Raises `Unavailable` and `Contradiction`.
        """
        now = self.clock()
        scope = source.scope
        key = (scope.kind, scope.id, source.address, source.mac)
        answer = self._answers.get(key)
        if (
            answer is not None
            and now <= answer.until
            and (answer.sure or now - answer.used <= self._idle)
            and not answer.mark.replaced
        ):
            answer.used = now
            if journal is not None:
                journal.cache = HIT
            return answer
        try:
            new = self._look_up(source, key, answer, now, journal)
        except Unavailable as error:
            old = self._outdated(source, answer, now) if stale else None
            if old is None:
                raise
            if self._lines.due(scope):
                LOG.warning("%s: going on with old answers: %s (said once a minute)", scope, error)
            if journal is not None:
                journal.cache = STALE
            return old
        self._answers.put(key, new)
        if journal is not None:
            journal.cache = MISS if new.as_of >= now else SNAPSHOT
        return new

    def again(self, source: Source, journal: Journal | None = None) -> Answer:
        """What the back end says now (R-11); shared with those who asked before the asking began."""
        now = self.clock()
        scope = source.scope
        key = (scope.kind, scope.id, source.address, source.mac)
        known = self._snapshots.known(scope)
        answer = None
        if known is not None and (_ports(known) <= _SMALL or self._is_crowded(scope, known)):
            answer = self._read(self._snapshots.get(scope, now, journal), source, now)
        answer = answer or self._ask_alone(source, key, now, now, journal)
        self._answers.put(key, answer)
        return answer

    def look(self, source: Source) -> tuple[list[tuple[str | None, Answer]], "InSnapshot | None"]:
        """What is known of a source, without asking anybody.

        Answers, each with the MAC that was seen with it, for any MAC if `source` has none; and what
        the newest snapshot says.
        """
        answers = self._answers.of(source)
        fact = self._snapshots.known(source.scope)
        if fact is None:
            return answers, None
        if fact.value is None:
            return answers, InSnapshot(fact.as_of)
        return answers, InSnapshot(fact.as_of, int(_ports(fact)), _in_snapshot(fact.value, source))

    def purge(self, scope: Scope | None) -> tuple[int, bool]:
        """Forget what is known of a scope, or everything.

        How many answers and snapshots that were here; and whether other processes find nothing either in the
        shared cache. What is being asked for at this moment may still be remembered.
        """
        shared = self._shared is not None and self._shared.purge(scope)
        return self._answers.forget(scope) + self._snapshots.forget(scope), shared

    def _look_up(
        self, source: Source, key: _Key, old: Answer | None, now: float, journal: Journal | None
    ) -> Answer:
        found = self._prefetched(source, old, now, journal) if self._back_end.prefetches else None
        return found or self._ask_alone(source, key, now - self._idle, now, journal)

    def _prefetched(
        self, source: Source, old: Answer | None, now: float, journal: Journal | None
    ) -> Answer | None:
        """The answer of a snapshot, or None where it does not count and `source` must be asked for."""
        scope, limits = source.scope, self._limits
        known = self._snapshots.known(scope)
        active = old is not None and old.instance is not None and now - old.used <= limits.idle
        since = now - (limits.expiration if active or _mac(source) else limits.idle)
        if known is not None and not self._is_worth(scope, known, since, now):
            return None
        fact = self._snapshots.get(scope, since, journal)
        answer = self._read(fact, source, now, old)
        if answer is None and self._is_crowded(scope, fact) and not self._back_end.partial:
            # The next snapshot has most of those that are missing, also if its flight is under way.
            newer = self._snapshots.get(scope, math.nextafter(fact.as_of, math.inf), journal)
            answer = self._read(newer, source, now, old)
            answer = answer or self._read(self._snapshots.get(scope, now, journal), source, now, old)
        return answer

    def _is_worth(self, scope: Scope, known: Fact[Prefetched], since: float, now: float) -> bool:
        """Whether to look into a snapshot, and to fetch it where it is older than `since`."""
        if known.value is None:
            return known.as_of < now - self._limits.expiration
        return known.as_of >= since or _ports(known) <= _SMALL or self._is_crowded(scope, known)

    def _is_crowded(self, scope: Scope, known: Fact[Prefetched]) -> bool:
        """Whether to fetch all ports costs less than what is being asked one by one."""
        return self._alone.count(scope) >= max(1.0, _ports(known) / _PORTS_FOR_A_QUESTION)

    def _read(
        self, fact: Fact[Prefetched], source: Source, now: float, old: Answer | None = None
    ) -> Answer | None:
        """What a snapshot says of `source`.

        One that is older than the request does not count when it has no such port, or one with
        another MAC (the guest may be new), or is older than what is known already.
        """
        if fact.value is None:
            return None
        current = fact.as_of >= now
        found = _in_snapshot(fact.value, source)
        if isinstance(found, Absent):
            counts, sure = current and not self._back_end.partial, False
        else:
            mac = _mac(source)
            sure = isinstance(fact.value, Snapshot) and mac == fact.value.mac_of(found)
            counts = current or ((sure or not mac) and (old is None or old.as_of <= fact.as_of))
        return self._answer(found, fact.as_of, fact.mark, now, sure) if counts else None

    def _ask_alone(
        self, source: Source, key: _Key, since: float, now: float, journal: Journal | None
    ) -> Answer:
        sure = wanted_mac(source) is not None
        with self._alone.one_more(source.scope):
            fact = self._flights.share(key, since, lambda: self._fetch(source, key, since, journal))
        return self._answer(fact.value, fact.as_of, fact.mark, now, sure)

    def _fetch(
        self, source: Source, key: _Key, since: float, journal: Journal | None
    ) -> Fact[Instance | Absent]:
        shared = self._shared.instance(key, since) if self._shared else None
        if shared is not None:
            return Fact(shared.value, shared.as_of)
        began = self.clock()
        found = self._back_end.instance(source, journal)
        if self._shared and isinstance(found, Instance):
            self._shared.save_instance(key, found, began)
        return Fact(found, began)

    def _outdated(self, source: Source, old: Answer | None, now: float) -> Answer | None:
        """R-13: what was known of `source` not too long ago."""
        limit = now - self._limits.expiration - self._limits.stale
        fact = self._snapshots.known(source.scope)
        answer = self._read(fact, source, now, old) if fact is not None else None
        answer = answer or old
        return answer if answer and answer.instance and answer.as_of >= limit else None

    def _answer(self, found: Instance | Absent, as_of: float, mark: Mark, now: float, sure: bool) -> Answer:
        lifetime = self._limits.negative if isinstance(found, Absent) else self._limits.expiration
        return Answer(found, as_of, mark, as_of + lifetime, now, sure)


class _Recent:
    """The answers used last; when they are too many, the tenth that was not used for longest goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._answers: dict[_Key, Answer] = {}
        self.get = self._answers.get

    def put(self, key: _Key, answer: Answer) -> None:
        with self._lock:
            self._answers[key] = answer
            if len(self._answers) > self._most:
                by_use = sorted(self._answers, key=lambda key: self._answers[key].used)
                for old in by_use[: len(by_use) - self._most + self._most // 10]:
                    del self._answers[old]

    def of(self, source: Source) -> list[tuple[str | None, Answer]]:
        """Those of a source, by the MAC that was seen; without one in `source` for any."""
        wanted = (source.scope.kind, source.scope.id, source.address)
        answers = self._answers.copy()
        return [
            (key[3], answer)
            for key, answer in answers.items()
            if key[:3] == wanted and source.mac in (None, key[3])
        ]

    def forget(self, scope: Scope | None) -> int:
        """Drop those of a scope, or all; how many there were."""
        with self._lock:
            keys = [key for key in self._answers if scope is None or key[:2] == (scope.kind, scope.id)]
            for key in keys:
                del self._answers[key]
        return len(keys)


class _Alone:
    """How many sources of each scope are being asked for one by one."""

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


def _ports(fact: Fact[Prefetched]) -> float:
    """How many there are; infinity when they are too many to be fetched."""
    if fact.value is None:
        return math.inf
    return 0 if isinstance(fact.value, Absent) else len(fact.value.ports)


def _in_snapshot(snapshot: Snapshot | Absent, source: Source) -> Instance | Absent:
    if isinstance(snapshot, Absent):
        return snapshot
    try:
        return snapshot.resolve(source)
    except NotIdentified as error:
        return Absent(str(error))


def _mac(source: Source) -> str | None:
    """The MAC in the address, or the one that was seen."""
    return wanted_mac(source) or source.mac


_MEMORY, _MEMCACHED = "dogpile.cache.memory", "dogpile.cache.pymemcache"
# What oslo.cache has, in Neutron's files; one client serves for every memcached.
_OTHER_NAMES = {
    "dogpile.cache.memcached": _MEMCACHED,
    "dogpile.cache.bmemcached": _MEMCACHED,
    "dogpile.cache.pylibmc": _MEMCACHED,
    "oslo_cache.memcache_pool": _MEMCACHED,
    "dogpile.cache.null": _MEMORY,
    "dogpile.cache.memory_pickle": _MEMORY,
    "oslo_cache.dict": _MEMORY,
}
_CLOCKS_DIFFER = 0.5  # seconds, between hosts that keep their time with NTP

OPTIONS = [
    cfg.BoolOpt(
        "cache_enabled",
        help="Remember who is who, instead of asking for each request. On, unless enabled is off in "
        "the group [cache] of a config_file. A resolver that answers from memory is never cached.",
    ),
    cfg.FloatOpt(
        "cache_expiration_time",
        min=0,
        help="Seconds that an identity is remembered; 10, unless the group [cache] of a config_file has an "
        "expiration_time.",
    ),
    cfg.FloatOpt(
        "cache_negative_time",
        default=1.0,
        min=0,
        max=1,
        help="Seconds for which it is remembered that an address is nobody's.",
    ),
    cfg.FloatOpt(
        "cache_idle_time",
        default=5.0,
        min=0,
        help="An address that was silent for so many seconds is looked up anew, since it may be another "
        "guest's by now; not where the MAC was seen.",
    ),
    cfg.FloatOpt(
        "cache_stale_if_error",
        default=30.0,
        min=0,
        help="Seconds after its expiration for which an identity serves GET and HEAD while the resolver "
        "cannot be asked.",
    ),
    cfg.IntOpt("cache_max_entries", default=10_000, min=100, help="Most answers that one process remembers."),
    cfg.StrOpt(
        "cache_backend",
        choices=[
            (_MEMORY, "each process remembers for itself, and with the worker processes of its server"),
            (_MEMCACHED, "agents share answers through memcached as well; needs the extra mdmw[memcached]"),
        ],
        help="A dogpile.cache backend; memory, unless the group [cache] of a config_file names another.",
    ),
    cfg.MultiStrOpt(
        "cache_backend_argument",
        default=[],
        help="NAME:VALUE for memcached. url: HOST:PORT, [IPV6]:PORT or the path of a unix socket, several "
        "with commas (localhost:11211). socket_timeout: seconds (0.5).",
    ),
]

_NEUTRON = [
    cfg.BoolOpt("enabled"),
    cfg.StrOpt("backend"),
    cfg.FloatOpt("expiration_time", min=0),
    cfg.MultiStrOpt("backend_argument", default=[]),
    cfg.ListOpt("memcache_servers"),
]


def cached(resolver: Resolver, settings: SimpleNamespace) -> Resolver:
    """`resolver` behind a cache, unless the options say no or it has no use for one; raises `ConfigError`."""
    if not remembers(resolver, settings):
        return resolver
    neutron = _of_neutron(settings)
    limits = Limits(
        expiration=_first(settings.cache_expiration_time, neutron.expiration_time, 10.0),
        negative=settings.cache_negative_time,
        idle=settings.cache_idle_time,
        stale=settings.cache_stale_if_error,
        entries=settings.cache_max_entries,
    )
    keep = limits.expiration + limits.stale
    group = _group(settings)
    if _backend(settings, neutron) == _MEMCACHED:
        shared = _through_memcached(settings, neutron, keep)
    elif group:
        shared = Shared(DirectoryStore(group.directory, keep), time.monotonic)
    else:
        shared = None
    return Caching(resolver, limits, shared, group)


def remembers(resolver: Resolver | type[Resolver], settings: SimpleNamespace) -> bool:
    """Whether the answers of a resolver are remembered."""
    enabled: bool = _first(settings.cache_enabled, _of_neutron(settings).enabled, True)
    return enabled and not getattr(resolver, "cheap", False)


def _of_neutron(settings: SimpleNamespace) -> SimpleNamespace:
    conf = settings.config.parse(settings.place, _NEUTRON, "cache")
    values = {}
    for opt in _NEUTRON:
        try:
            values[opt.dest] = conf.cache[opt.dest]
        except (cfg.Error, ValueError):
            where = ", ".join([*settings.config.files, *settings.config.directories])
            raise ConfigError(
                f"{settings.place}: {where}: option {opt.dest!r} in [cache]: the value is not allowed"
            ) from None
    return SimpleNamespace(**values)


def _group(settings: SimpleNamespace) -> Group | None:
    directory = group_directory(settings.place)
    return None if directory is None else Group(directory)


def _backend(settings: SimpleNamespace, neutron: SimpleNamespace) -> str:
    if settings.cache_backend:
        name = settings.cache_backend
    else:
        name = neutron.backend or _MEMORY
        name = _OTHER_NAMES.get(name, name)
        if name not in (_MEMORY, _MEMCACHED):
            LOG.warning("%s: [cache] backend %s is not used; each process remembers", settings.place, name)
            name = _MEMORY
    if name == _MEMCACHED and find_spec("pymemcache") is None:
        raise refuse(settings, "cache_backend", f"{name} needs pymemcache: install mdmw[memcached]")
    return str(name)


def _through_memcached(settings: SimpleNamespace, neutron: SimpleNamespace, keep: float) -> Shared:
    given = settings.cache_backend_argument
    pairs = [text.partition(":") for text in given or neutron.backend_argument]
    arguments = {name.strip(): value.strip() for name, _, value in pairs}
    if given and (unknown := sorted(set(arguments) - {"url", "socket_timeout"})):
        raise refuse(
            settings, "cache_backend_argument", f"{unknown[0]!r}: allowed are url and socket_timeout"
        )
    url = arguments.get("url")
    servers = url.split(",") if url else neutron.memcache_servers or ["localhost:11211"]
    try:
        timeout = float(arguments.get("socket_timeout", "0.5"))
    except ValueError:
        timeout = 0.0
    if not 0 < timeout <= 60:
        raise refuse(settings, "cache_backend_argument", "socket_timeout is a number of seconds above 0")
    urls = [_server(text.strip()) for text in servers]
    from mdmw.resolvers.memcached import MemcachedStore  # an extra

    try:
        return Shared(MemcachedStore(urls, timeout, int(keep) + 1), time.time, _CLOCKS_DIFFER)
    except ValueError as error:
        raise refuse(settings, "cache_backend_argument", f"url {', '.join(urls)}: {error}") from None


def _server(text: str) -> str:
    """oslo.cache writes `inet6:[::1]:11211` too."""
    return text.removeprefix("inet6:").removeprefix("inet:")


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
