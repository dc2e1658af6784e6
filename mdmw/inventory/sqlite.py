"""The SQLite database of an inventory: its tables, its connections, and how the whole inventory is read.

The database is in WAL mode, so that readers and writers do not wait for each other. A connection
lasts as long as one operation, so that no connection is carried across a fork.
"""

import json
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mdmw.checked_yaml import At, Node, document
from mdmw.errors import ConfigError
from mdmw.inventory import entries
from mdmw.inventory.entries import Entry, check_inventory, of_entry
from mdmw.inventory.values import Inventory
from mdmw.locking import is_locked, when_free
from mdmw.reloading import with_rests

Kind = Literal["networks", "routers", "instances"]

KINDS: Mapping[Kind, Callable[[Node], Entry]] = {
    "networks": entries.network,
    "routers": entries.router,
    "instances": entries.guest,
}

_APPLICATION = 0x6D646D77  # "mdmw", for file(1) too
#: The layout of a new database. Layout 1 has no table `claims`; the first change adds this table.
LAYOUT = 2
_BUSY_SECONDS = 5.0

# The version of a resource is the number of the change that made it. The first number is random, so
# that nobody takes this database for another one that was at the same path before.
_TABLES = (
    """CREATE TABLE resources (
        position INTEGER PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('networks', 'routers', 'instances')),
        id TEXT NOT NULL,
        version INTEGER NOT NULL,
        document TEXT NOT NULL CHECK (json_valid(document)),
        UNIQUE (kind, id)
    )""",
    """CREATE TABLE changes (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,
        name TEXT NOT NULL,
        user_id TEXT NOT NULL,
        project_id TEXT NOT NULL,
        request_id TEXT NOT NULL,
        action TEXT NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        old_version INTEGER,
        fields TEXT NOT NULL
    )""",
    "CREATE INDEX changes_by_time ON changes (time)",
    f"PRAGMA application_id = {_APPLICATION}",
)

#: What is new in layout 2: the keys of each resource (`mdmw.inventory.claims`).
CLAIMS_TABLE = (
    """CREATE TABLE claims (
        key TEXT NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (key, kind, id)
    ) WITHOUT ROWID""",
    "CREATE INDEX claims_by_resource ON claims (kind, id)",
    f"PRAGMA user_version = {LAYOUT}",
)


def make(path: Path) -> None:
    """Make an empty database with mode 0600, unless there is a file already; raises `ConfigError`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            return
        # The name appears when the database is complete.
        with tempfile.TemporaryDirectory(prefix=".mdmw-", dir=path.parent) as folder:
            new = Path(folder) / "new"
            new.touch(mode=0o600)
            with closing(_connect(new, "rw")) as database:
                for statement in (*_TABLES, *CLAIMS_TABLE):
                    database.execute(statement)
                database.execute("INSERT INTO sqlite_sequence VALUES ('changes', ?)", (secrets.randbits(48),))
                database.execute("PRAGMA journal_mode = WAL")
            os.link(new, path)
    except FileExistsError:
        return
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path}: {_problem(error)}") from None


@contextmanager
def reading(path: Path, patience: float = _BUSY_SECONDS) -> Iterator[sqlite3.Connection]:
    """The database as it is now, whatever is written meanwhile.

    Raises `ConfigError`, also when other processes keep the database locked for `patience` seconds.
    """
    with _opened(path, "ro", "BEGIN", patience) as database:
        yield database


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, while no other process can write; an exception undoes all changes.

    Raises `ConfigError`, also when other processes keep the database locked for 5 seconds.
    """
    with _opened(path, "rw", "BEGIN IMMEDIATE", _BUSY_SECONDS) as database:
        yield database
        database.execute("COMMIT")


def layout_of(database: sqlite3.Connection) -> int:
    """The layout of the tables: 1 or 2."""
    number: int = database.execute("PRAGMA user_version").fetchone()[0]
    return number


@contextmanager
def _opened(path: Path, mode: str, begin: str, patience: float) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise ConfigError(f"{path}: " + ("is not a file" if path.exists() else "there is no such file"))
    try:
        with closing(when_free(partial(_begun, path, mode, begin), patience)) as database:
            yield database
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path}: {_problem(error)}") from error


def _begun(path: Path, mode: str, begin: str) -> sqlite3.Connection:
    database = _connect(path, mode)
    try:
        database.execute("PRAGMA secure_delete = ON")  # passwords are in the documents
        database.execute(begin)
        _check_layout(path, database)
    except BaseException:
        database.close()
        raise
    return database


def _check_layout(path: Path, database: sqlite3.Connection) -> None:
    ((application,),) = database.execute("PRAGMA application_id")
    if application != _APPLICATION or not 1 <= layout_of(database) <= LAYOUT:
        raise ConfigError(f"{path}: is no inventory, or one of another version of mdmw")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
    database.row_factory = sqlite3.Row
    return database


def _problem(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def last_change(database: sqlite3.Connection) -> int:
    """The number of the last change; later changes have higher numbers."""
    number: int = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()[0]
    return number


def entry_of(row: sqlite3.Row) -> Entry:
    """The entry in a row of `resources`; raises `ConfigError` when another program wrote a wrong document."""
    kind: Kind = row["kind"]
    return KINDS[kind](document(json.loads(row["document"]), f"{kind}[{row['id']}]"))


def places_in(inventory: Inventory) -> At:
    """For messages: finds a value by the steps to it. An entry is named by its id and not by its number."""

    def at(kind: str, number: int, *steps: str | int) -> Node:
        entry: Entry = getattr(inventory, kind)[number]
        return document(of_entry(entry), f"{kind}[{entry.id}]").at(*steps)

    return at


class Contents:
    """Reads the whole inventory. Entries that have the version of last time are not parsed again.

    One thread at a time may use it.
    """

    def __init__(self) -> None:
        self._parsed: dict[tuple[Kind, str, int], Entry] = {}

    def read(self, database: sqlite3.Connection) -> Inventory:
        """The inventory; raises `ConfigError` when another program wrote what is not allowed."""
        parsed: dict[tuple[Kind, str, int], Entry] = {}
        entries: dict[Kind, list[Entry]] = {kind: [] for kind in KINDS}
        rows = database.execute("SELECT position, kind, id, version FROM resources ORDER BY position")
        for position, kind, id_, version in with_rests(rows):
            key = (kind, id_, version)
            entry = self._parsed.get(key)
            if entry is None:
                question = "SELECT kind, id, document FROM resources WHERE position = ?"
                entry = entry_of(database.execute(question, (position,)).fetchone())
            parsed[key] = entry
            entries[kind].append(entry)
        of_kinds: dict[str, Any] = {kind: tuple(found) for kind, found in entries.items()}
        inventory = Inventory(**of_kinds)
        check_inventory(inventory, places_in(inventory))
        self._parsed = parsed
        return inventory


class Reader:
    """A database as a source for `mdmw.reloading.Reloading`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._contents = Contents()
        self._seen: int | None = None

    def look(self) -> int | None:
        """The number of the last change; None when the database cannot be read.

        Called in the thread of a guest's request, so that it does not wait for a locked database.
        """
        try:
            with reading(self._path, patience=0) as database:
                self._seen = last_change(database)
        except ConfigError as error:
            if not is_locked(error.__cause__):
                self._seen = None
        return self._seen

    def read(self) -> Inventory:
        """The inventory; raises `ConfigError`."""
        with reading(self._path) as database:
            return self._contents.read(database)
