"""The passwords that guests set (spec 7.4). A password is written once and never logged."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from mdmw.errors import Unavailable
from mdmw.locking import when_free

T = TypeVar("T")

_TABLE = "CREATE TABLE IF NOT EXISTS passwords (instance_id TEXT PRIMARY KEY, password BLOB NOT NULL)"
_BUSY_SECONDS = 5.0


class Passwords(Protocol):
    """One password per instance; safe for threads."""

    def get(self, instance_id: str) -> bytes:
        """Return the password of an instance, empty if none was set. Raises `Unavailable`."""

    def put(self, instance_id: str, password: bytes) -> bool:
        """Store a password unless the instance has one, and return whether it was stored.

        Raises `Unavailable`.
        """


class PasswordsInMemory:
    """`Passwords` of one process, which are lost when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passwords: dict[str, bytes] = {}

    def get(self, instance_id: str) -> bytes:
        """See `Passwords`."""
        return self._passwords.get(instance_id, b"")

    def put(self, instance_id: str, password: bytes) -> bool:
        """See `Passwords`."""
        with self._lock:
            if instance_id in self._passwords:
                return False
            self._passwords[instance_id] = password
            return True


class PasswordFile:
    """`Passwords` in a SQLite database that all processes share. The first use makes its folder and file.

    A connection lasts for one statement, since a connection must not be carried across a fork. While
    another process writes, the store tries again for 5 seconds, and other greenlets run meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, instance_id: str) -> bytes:
        """See `Passwords`."""

        def read(database: sqlite3.Connection) -> bytes:
            row = database.execute(
                "SELECT password FROM passwords WHERE instance_id = ?", (instance_id,)
            ).fetchone()
            return row[0] if row else b""

        return self._run(read)

    def put(self, instance_id: str, password: bytes) -> bool:
        """See `Passwords`."""

        def write(database: sqlite3.Connection) -> bool:
            cursor = database.execute(
                "INSERT INTO passwords VALUES (?, ?) ON CONFLICT DO NOTHING", (instance_id, password)
            )
            return cursor.rowcount == 1

        return self._run(write)

    def _run(self, statement: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if not self._path.exists():
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.touch(mode=0o600)
            return when_free(partial(self._try, statement), _BUSY_SECONDS)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"password store {self._path}: {error}") from error

    def _try(self, statement: Callable[[sqlite3.Connection], T]) -> T:
        with closing(sqlite3.connect(self._path, timeout=0)) as database, database:
            database.execute(_TABLE)
            return statement(database)
