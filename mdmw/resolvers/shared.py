"""What processes know of each other's answers: a cache that they share, and one question for all of them.

The processes are those of one group, which share a directory, or agents that share a memcached. Entries
are JSON, so that nothing from outside is executed. An entry that cannot be understood, or that is about
something else, is ignored. Faults of the shared cache never reach a guest.
"""

import hashlib
import json
import logging
import os
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from mdmw import locking
from mdmw.errors import ConfigError, Unavailable
from mdmw.observe.background import OncePerMinute
from mdmw.records import Instance, Scope
from mdmw.resolvers.back_end import PATIENCE, Dated
from mdmw.resolvers.contract import Port, Snapshot

LOG = logging.getLogger(__name__)

#: Environment variable with the private directory of a group; the process that starts the group sets it.
GROUP_DIRECTORY = "MDMW_GROUP_DIR"

#: What an entry is about: always with kind and id of the scope.
Key = tuple[str | None, ...]
SNAPSHOT_KEY = "snapshot"  # the first part of the key of a snapshot

_PURGED = ("purged",)
_TOO_LARGE = "too large"  # the first part of the key of a note that an entry does not fit
_FORMAT = 2  # part of each name; another number when entries change so that older code cannot read them
_COMPRESSED = b"z"  # before the data; JSON begins with a brace
_COMPRESS_FROM = 16 * 1024  # bytes
_MOST_JSON = 64 * 1024 * 1024  # bytes, of about 200,000 ports
_REST = 5.0  # seconds without the shared cache after it failed
_LOCKS = 64
_SHARDS = 256


def group_directory(place: str) -> Path | None:
    """The directory of this group of processes, or None without one.

    `place` begins the message. Raises `ConfigError` when other users may read or write there.
    """
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


@contextmanager
def locked(descriptor: int, patience: float, why_not: str) -> Iterator[None]:
    """Inside, no other process of the group has this file locked.

    Raises `Unavailable(why_not)` when another process holds the lock for `patience` seconds.
    """
    try:
        locking.lock(descriptor, patience)
    except TimeoutError:
        raise Unavailable(why_not) from None
    try:
        yield
    finally:
        locking.unlock(descriptor)


class Store(Protocol):
    """Keeps bytes by name for some time. Every fault is an OSError."""

    #: The longest value that can be kept, in bytes.
    most_bytes: int

    def get(self, name: str) -> bytes | None:
        """The value, or None."""

    def set(self, name: str, value: bytes) -> None:
        """Keep a value in place of the one that is there."""


class DirectoryStore:
    """A `Store` of one file for each name, in 256 folders. Files older than `keep` seconds are removed.

    Each `set` looks through at most one folder, so that its time does not grow with the number of files.
    """

    most_bytes = _MOST_JSON

    def __init__(self, path: Path, keep: float) -> None:
        self._path = path
        self._keep = keep
        self._swept = 0  # folders so far
        self._next_sweep = 0.0

    def get(self, name: str) -> bytes | None:
        """See `Store`."""
        try:
            return self._file(name).read_bytes()
        except FileNotFoundError:
            return None

    def set(self, name: str, value: bytes) -> None:
        """See `Store`. Readers see the old value or the new one."""
        file = self._file(name)
        with suppress(FileExistsError):
            file.parent.mkdir(0o700)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent)
        with open(descriptor, "wb") as output:  # noqa: PTH123 - a descriptor has no path
            output.write(value)
        Path(temporary).replace(file)
        self._sweep()

    def _file(self, name: str) -> Path:
        return self._folder(zlib.crc32(name.encode())) / name

    def _folder(self, number: int) -> Path:
        return self._path / f"{number % _SHARDS:02x}"

    def _sweep(self) -> None:
        """Remove the old files of the next folder, all folders in turn within `keep` seconds."""
        now = time.time()
        if now < self._next_sweep:
            return
        self._next_sweep = now + self._keep / _SHARDS
        self._swept += 1
        with suppress(FileNotFoundError), os.scandir(self._folder(self._swept)) as files:
            for file in files:
                with suppress(FileNotFoundError):
                    if file.stat().st_mtime < now - self._keep:
                        Path(file.path).unlink()


class SharedCache:
    """Answers and snapshots that several processes use, in a `Store`.

    `clock` is a clock that all processes have in common. Between processes it may differ by `margin`
    seconds, so every entry counts as older by the margin.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.time,
        margin: float = 0.0,
        own_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._margin = margin
        self._own_clock = own_clock
        self._resting_until = 0.0
        self._lines = OncePerMinute()

    def takes(self, key: Key) -> bool:
        """Whether an answer about `key` can be shared now: it is not too large, and the cache works."""
        return self._load((_TOO_LARGE, *key), 0.0, lambda _: True) is None and not self._is_resting()

    def snapshot(self, key: Key, since: float) -> Dated[Snapshot | None] | None:
        """The snapshot under `key` with `as_of >= since`, or None.

        The value is None when the scope has too many ports for a snapshot.
        """
        return self._load(key, since, _snapshot)

    def instance(self, key: Key, since: float) -> Dated[Instance] | None:
        """The instance under `key` with `as_of >= since`, or None."""
        return self._load(key, since, _instance)

    def save_snapshot(self, key: Key, snapshot: Snapshot | None, as_of: float) -> None:
        """Share a snapshot. Other processes learn not to wait for a snapshot that is too large."""
        ports = None if snapshot is None else [_fields(port) for port in snapshot.ports]
        subnets = None if snapshot is None or snapshot.subnets is None else sorted(snapshot.subnets)
        if not self._save(key, as_of, {"ports": ports, "subnets": subnets}) and not self._is_resting():
            self._save((_TOO_LARGE, *key), as_of, {})

    def save_instance(self, key: Key, found: Instance, as_of: float) -> None:
        """Share an instance."""
        self._save(key, as_of, {"instance": [found.id, found.project_id, found.port_id]})

    def purge(self, scope: Scope | None) -> bool:
        """Have all processes ignore the entries of a scope, or all entries, that are older than this call.

        Returns False when the shared cache does not work.
        """
        now = self._own_clock()
        return self._save(_PURGED if scope is None else (*_PURGED, scope.kind, scope.id), now, {})

    def _load(self, key: Key, since: float, build: Callable[[dict[str, Any]], Any]) -> Dated[Any] | None:
        now = self._own_clock()
        if self._is_resting() or since > now - self._margin:
            return None
        try:
            data = self._store.get(_name(key))
            if data is None:
                return None
            entry = _decoded(data)
            if entry["key"] != list(key):
                return None
            age = self._clock() - entry["as_of"]
            found = Dated(build(entry), now - max(age, 0.0) - self._margin)
            if self._is_purged(key, entry["as_of"]):
                return None
        except OSError as error:
            self._rest(error)
            return None
        except (ValueError, TypeError, LookupError, RecursionError, zlib.error) as error:
            self._say("an entry of the shared cache cannot be understood and is ignored", error)
            return None
        return found if found.as_of >= since and age >= -self._margin else None

    def _is_purged(self, key: Key, as_of: float) -> bool:
        """Whether somebody purged the entry. The note of a purge is kept as long as the entries."""
        about = key[1:] if key[0] == _TOO_LARGE else key
        scope = about[1:3] if about[0] == SNAPSHOT_KEY else about[:2]
        for purge in (_PURGED, (*_PURGED, *scope)):
            data = self._store.get(_name(purge))
            if data is not None and as_of <= _decoded(data)["as_of"] + self._margin:
                return True
        return False

    def _save(self, key: Key, as_of: float, content: dict[str, Any]) -> bool:
        now = self._own_clock()
        if self._is_resting():
            return False
        entry = {"key": key, "as_of": self._clock() - (now - as_of), **content}
        data = _encoded(entry)
        if len(data) > self._store.most_bytes:
            return False
        try:
            self._store.set(_name(key), data)
        except OSError as error:
            self._rest(error)
            return False
        return True

    def _is_resting(self) -> bool:
        return self._own_clock() < self._resting_until

    def _rest(self, error: OSError) -> None:
        self._resting_until = self._own_clock() + _REST
        self._say("the shared cache cannot be used; this process works without it", error)

    def _say(self, what: str, error: Exception) -> None:
        if self._lines.due(what):
            LOG.warning("%s: %s (said once a minute)", what, error)


class ProcessGroup:
    """Processes with a private directory in common. They ask one after the other, by files with locks."""

    def __init__(self, directory: Path, patience: float = PATIENCE) -> None:
        self.directory = directory
        self._patience = patience

    @contextmanager
    def exclusive(self, key: Key) -> Iterator[None]:
        """Inside, no other process of the group asks about this key.

        Raises `Unavailable` when another process asks for longer than `patience` seconds.
        """
        number = zlib.crc32(_name(key).encode()) % _LOCKS
        try:
            file = (self.directory / f"lock-{number}").open("ab")
        except OSError as error:
            LOG.warning("this process asks the back end without waiting for other processes: %s", error)
            yield
            return
        with file, locked(file.fileno(), self._patience, "another process asks the same for too long"):
            yield


def _name(key: Key) -> str:
    return f"mdmw-{hashlib.sha256(json.dumps([_FORMAT, *key]).encode()).hexdigest()}"


def _encoded(entry: dict[str, Any]) -> bytes:
    data = json.dumps(entry, separators=(",", ":")).encode()
    return data if len(data) < _COMPRESS_FROM else _COMPRESSED + zlib.compress(data, 1)


def _decoded(data: bytes) -> Any:
    if data.startswith(_COMPRESSED):
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(data[1:], _MOST_JSON)
        if not decompressor.eof:
            raise ValueError("the compressed data is too long, or cut off")
    return json.loads(data)


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
