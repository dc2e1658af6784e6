"""Passwords that guests leave for their owners: written once, never logged (spec 7.4)."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdmw.errors import Unavailable

IN_MEMORY = ":memory:"

_TABLE = "CREATE TABLE IF NOT EXISTS passwords (instance_id TEXT PRIMARY KEY, password BLOB NOT NULL)"
_BUSY_SECONDS = 5.0


class PasswordStore:
    """One row per instance in SQLite; safe for threads, and for processes if it is a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0

    def get(self, instance_id: str) -> bytes:
        """The password, empty if none was set."""
        with self._database() as database:
            row = database.execute(
                "SELECT password FROM passwords WHERE instance_id = ?", (instance_id,)
            ).fetchone()
        return row[0] if row else b""

    def put(self, instance_id: str, password: bytes) -> bool:
        """Store it unless there is one; says whether it did."""
        with self._database() as database:
            cursor = database.execute(
                "INSERT INTO passwords VALUES (?, ?) ON CONFLICT DO NOTHING", (instance_id, password)
            )
        return cursor.rowcount == 1

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """The connection, one transaction at a time."""
        try:
            with self._lock, self._connected() as database:
                yield database
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"password store {self._path}: {error}") from error

    def _connected(self) -> sqlite3.Connection:
        """Opened on first use: a connection must not be carried across a fork."""
        if self._connection is None or self._owner != os.getpid():
            if self._path != IN_MEMORY:
                Path(self._path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                Path(self._path).touch(mode=0o600)
            self._connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, check_same_thread=False)
            self._connection.execute(_TABLE)
            self._owner = os.getpid()
        return self._connection
