"""Passwords that guests leave for their owners: written once, never logged (spec 7.4)."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from mdmw.errors import Unavailable

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
    """`Passwords` in a SQLite database that all processes share. The first use makes its folder and file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, instance_id: str) -> bytes:
        """See `Passwords`."""
        with self._opened() as database:
            row = database.execute(
                "SELECT password FROM passwords WHERE instance_id = ?", (instance_id,)
            ).fetchone()
        return row[0] if row else b""

    def put(self, instance_id: str, password: bytes) -> bool:
        """See `Passwords`."""
        with self._opened() as database:
            cursor = database.execute(
                "INSERT INTO passwords VALUES (?, ?) ON CONFLICT DO NOTHING", (instance_id, password)
            )
        return cursor.rowcount == 1

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the database for one transaction: a connection must not be carried across a fork."""
        try:
            if not self._path.exists():
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.touch(mode=0o600)
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as database, database:
                database.execute(_TABLE)
                yield database
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"password store {self._path}: {error}") from error
