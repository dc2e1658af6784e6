"""What processes know of each other's answers: a dogpile.cache region of theirs, and one flight for all.

Entries are JSON, so that nothing from outside is executed; one that makes no sense, or is about
something else, is as good as none. Whatever happens to the region, the guest does not notice.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dogpile.cache import make_region, register_backend
from dogpile.cache.api import NO_VALUE

from mdmw.observe.seldom import Seldom
from mdmw.records import Instance, Scope
from mdmw.resolvers.flight import PATIENCE, Fact
from mdmw.resolvers.group import lock
from mdmw.resolvers.matching import Port
from mdmw.resolvers.snapshot import Snapshot

LOG = logging.getLogger(__name__)

#: What an entry is about: always with kind and id of the scope.
Key = tuple[str | None, ...]
SNAPSHOT = "snapshot"  # before the scope in keys of snapshots

for _name in ("Memcached", "Directory"):
    register_backend(f"mdmw.{_name.lower()}", f"mdmw.resolvers.{_name.lower()}", _name)  # type: ignore[no-untyped-call]  # dogpile

_PURGED = ("purged",)
_FORMAT = 1  # goes up when entries of the old form can no longer be read
_MOST_BYTES = 1_000_000  # memcached takes 1 MiB
_REST = 5.0  # seconds without the region after it failed
_LOCKS = 64


class Shared:
    """Facts in a region that several processes use.

    `clock` is one that they have in common, and `margin` by how many seconds it may differ
    between them: everything is taken to be older by that much.
    """

    def __init__(
        self,
        backend: str,
        arguments: dict[str, Any],
        clock: Callable[[], float] = time.time,
        margin: float = 0.0,
        own_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        region = make_region(key_mangler=_mangled, serializer=bytes, deserializer=bytes)
        self._region = region.configure(backend, arguments=arguments)
        self._clock = clock
        self._margin = margin
        self._own_clock = own_clock
        self._resting_until = 0.0
        self._seldom = Seldom()

    def snapshot(self, key: Key, since: float) -> Fact[Snapshot | None] | None:
        """The snapshot under `key`, if there is one with `as_of >= since`; None in it for too many ports."""
        return self._load(key, since, _snapshot)

    def instance(self, key: Key, since: float) -> Fact[Instance] | None:
        """The instance under `key`, if there is one with `as_of >= since`."""
        return self._load(key, since, _instance)

    def save_snapshot(self, key: Key, snapshot: Snapshot | None, as_of: float) -> None:
        """Leave a snapshot for the others, unless it is too large."""
        ports = None if snapshot is None else [_fields(port) for port in snapshot.ports]
        subnets = None if snapshot is None or snapshot.subnets is None else sorted(snapshot.subnets)
        self._save(key, as_of, {"ports": ports, "subnets": subnets})

    def save_instance(self, key: Key, found: Instance, as_of: float) -> None:
        """Leave an instance for the others."""
        self._save(key, as_of, {"instance": [found.id, found.project_id, found.port_id]})

    def purge(self, scope: Scope | None) -> bool:
        """Have everybody ignore what was asked until now, of a scope or at all; False if that fails."""
        now = self._own_clock()
        return self._save(_PURGED if scope is None else (*_PURGED, scope.kind, scope.id), now, {})

    def _load(self, key: Key, since: float, build: Callable[[dict[str, Any]], Any]) -> Fact[Any] | None:
        now = self._own_clock()
        if now < self._resting_until or since > now - self._margin:
            return None
        try:
            data = self._region.get(_text(key), ignore_expiration=True)
            if data is NO_VALUE:
                return None
            entry = json.loads(data)
            if entry["key"] != list(key):
                return None
            age = self._clock() - entry["as_of"]
            fact = Fact(build(entry), now - max(age, 0.0) - self._margin)
            if self._is_purged(key, entry["as_of"]):
                return None
        except OSError as error:
            self._rest(error)
            return None
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            self._say("an entry of the shared cache makes no sense and is ignored", error)
            return None
        return fact if fact.as_of >= since and age >= -self._margin else None

    def _is_purged(self, key: Key, as_of: float) -> bool:
        """Marks live as long as what they are about. Raises what reading an entry raises."""
        scope = key[1:3] if key[0] == SNAPSHOT else key[:2]
        for mark in (_PURGED, (*_PURGED, *scope)):
            data = self._region.get(_text(mark), ignore_expiration=True)
            if data is not NO_VALUE and as_of <= json.loads(data)["as_of"] + self._margin:
                return True
        return False

    def _save(self, key: Key, as_of: float, content: dict[str, Any]) -> bool:
        now = self._own_clock()
        if now < self._resting_until:
            return False
        entry = {"key": key, "as_of": self._clock() - (now - as_of), **content}
        data = json.dumps(entry, separators=(",", ":")).encode()
        if len(data) > _MOST_BYTES:
            return False
        try:
            self._region.set(_text(key), data)
        except OSError as error:
            self._rest(error)
            return False
        return True

    def _rest(self, error: OSError) -> None:
        self._resting_until = self._own_clock() + _REST
        self._say("the shared cache cannot be used; going on without it", error)

    def _say(self, what: str, error: Exception) -> None:
        if self._seldom.due(what):
            LOG.warning("%s: %s (said once a minute)", what, error)


class Group:
    """Processes with a private directory in common."""

    def __init__(self, directory: Path, patience: float = PATIENCE) -> None:
        self.directory = directory
        self._patience = patience

    @contextmanager
    def alone(self, key: Key) -> Iterator[None]:
        """While no other process of the group is here with this key; `Unavailable` if that takes too long."""
        number = int(_mangled(_text(key))[-4:], 16) % _LOCKS
        try:
            file = (self.directory / f"lock-{number}").open("ab")
        except OSError as error:
            LOG.warning("asking without regard to other processes: %s", error)
            yield
            return
        with file:
            lock(file.fileno(), self._patience, "the same look-up of another process takes too long")
            yield


def _text(key: Key) -> str:
    return json.dumps([_FORMAT, *key])


def _mangled(text: str) -> str:
    return f"mdmw-{hashlib.sha256(text.encode()).hexdigest()}"


def _fields(port: Port) -> list[Any]:
    return [
        port.id,
        port.network_id,
        port.mac,
        port.device_id,
        port.device_owner,
        port.project_id,
        port.fixed_ips,
    ]


def _snapshot(entry: dict[str, Any]) -> Snapshot | None:
    ports, subnets = entry["ports"], entry["subnets"]
    if ports is None:
        return None
    return Snapshot(
        [_port(*fields) for fields in ports], None if subnets is None else frozenset(_texts(subnets))
    )


def _port(*fields: Any) -> Port:
    *texts, fixed_ips = fields
    id_, network_id, mac, device_id, device_owner, project_id = _texts(texts)
    pairs = tuple((address, subnet) for address, subnet in map(_texts, fixed_ips))
    return Port(id_, network_id, mac, device_id, device_owner, project_id, pairs)


def _instance(entry: dict[str, Any]) -> Instance:
    return Instance(*_texts(entry["instance"]))


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("not a list of texts")
    return values
