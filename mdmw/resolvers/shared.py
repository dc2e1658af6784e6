"""What processes know of each other's answers: a dogpile.cache region of theirs, and one flight for all.

Entries are JSON, so that nothing from outside is executed; one that makes no sense, or is about
something else, is as good as none. Whatever happens to the region, the guest does not notice.
"""

import hashlib
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dogpile.cache import make_region, register_backend
from dogpile.cache.api import NO_VALUE, CacheBackend

from mdmw import locking
from mdmw.errors import ConfigError, Unavailable
from mdmw.observe.background import Seldom
from mdmw.records import Instance, Scope
from mdmw.resolvers.back_end import PATIENCE, Fact
from mdmw.resolvers.contract import Port, Snapshot

#: Environment variable, set by who starts the processes.
GROUP_DIRECTORY = "MDMW_GROUP_DIR"


def group_directory(place: str) -> Path | None:
    """The directory, or None without one; `ConfigError` when others may read or write there."""
    path = os.environ.get(GROUP_DIRECTORY)
    if not path:
        return None
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise ConfigError(f"{place}: {GROUP_DIRECTORY}: {path}: {error.strerror}") from None
    if not stat.S_ISDIR(mode) or mode & 0o077:
        raise ConfigError(
            f"{place}: {GROUP_DIRECTORY}: {path} must be a directory of mode 0700, for only its owner"
        )
    return Path(path)


def lock(descriptor: int, patience: float, why_not: str) -> None:
    """Lock a file of the group; `Unavailable` when another process has it for `patience` seconds."""
    try:
        locking.lock(descriptor, patience)
    except TimeoutError:
        raise Unavailable(why_not) from None


LOG = logging.getLogger(__name__)

#: What an entry is about: always with kind and id of the scope.
Key = tuple[str | None, ...]
SNAPSHOT_KEY = "snapshot"  # before the scope in keys of snapshots

for _name, _module in (("Memcached", "mdmw.resolvers.memcached"), ("Directory", __name__)):
    register_backend(f"mdmw.{_name.lower()}", _module, _name)  # type: ignore[no-untyped-call]  # dogpile

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
        scope = key[1:3] if key[0] == SNAPSHOT_KEY else key[:2]
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


class Directory(CacheBackend):
    """A file for each key, replaced as a whole. Files that are older than `keep` seconds go.

    Arguments: `path` and `keep`. Raises OSError.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._path = Path(arguments["path"])
        self._keep = arguments["keep"]

    def get(self, key: str) -> Any:
        try:
            return (self._path / key).read_bytes()
        except FileNotFoundError:
            return NO_VALUE

    def set(self, key: str, value: Any) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix="mdmw-", dir=self._path)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(value)
        Path(temporary).replace(self._path / key)
        limit = time.time() - self._keep
        for old in self._path.glob("mdmw-*"):
            with suppress(FileNotFoundError):
                if old.stat().st_mtime < limit:
                    old.unlink()
