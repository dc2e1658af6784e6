"""The SQLite file of an inventory: its tables, its connections, and reading it as one whole.

It is in WAL mode, so that readers and writers do not wait for each other. A connection
lasts as long as one operation: nothing is carried across a fork.
"""

import hashlib
import json
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from mdmw.checked_yaml import At, Node, document
from mdmw.errors import ConfigError
from mdmw.inventory import entries
from mdmw.inventory.entries import Entry, check_inventory, of_entry
from mdmw.inventory.values import Inventory

Kind = Literal["networks", "routers", "instances"]

KINDS: Mapping[Kind, Callable[[Node], Entry]] = {
    "networks": entries.network,
    "routers": entries.router,
    "instances": entries.guest,
}

_APPLICATION = 0x6D646D77  # "mdmw", for file(1) too
_LAYOUT = 1
_BUSY_SECONDS = 5.0

# The number of the change that made it is the version of a resource. It starts anywhere, so that
# nobody takes one database for another that was at the same place before.
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
    f"PRAGMA user_version = {_LAYOUT}",
)


def make(path: Path) -> None:
    """Make an empty database that is its owner's alone, unless there is something; raises `ConfigError`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            return
        # Nobody sees half of it.
        with tempfile.TemporaryDirectory(prefix=".mdmw-", dir=path.parent) as folder:
            new = Path(folder) / "new"
            new.touch(mode=0o600)
            with closing(_connect(new, "rw")) as database:
                for statement in _TABLES:
                    database.execute(statement)
                database.execute("INSERT INTO sqlite_sequence VALUES ('changes', ?)", (secrets.randbits(48),))
                database.execute("PRAGMA journal_mode = WAL")
            os.link(new, path)
    except FileExistsError:
        return
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path}: {_problem(error)}") from None


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The database as it is now, whatever is written meanwhile; raises `ConfigError`."""
    with _opened(path, "ro") as database:
        database.execute("BEGIN")
        yield database


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, while nobody else can write; an exception undoes it all. Raises `ConfigError`."""
    with _opened(path, "rw") as database:
        database.execute("PRAGMA secure_delete = ON")  # there are passwords in it
        database.execute("BEGIN IMMEDIATE")
        yield database
        database.execute("COMMIT")


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise ConfigError(f"{path}: " + ("is not a file" if path.exists() else "there is no such file"))
    try:
        with closing(_connect(path, mode)) as database:
            ((application,), (layout,)) = (
                database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
            )
            if (application, layout) != (_APPLICATION, _LAYOUT):
                raise ConfigError(f"{path}: is no inventory, or one of another version of mdmw")
            yield database
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path}: {_problem(error)}") from error


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    database.row_factory = sqlite3.Row
    return database


def _problem(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def last_change(database: sqlite3.Connection) -> int:
    """The number of the last change; it only grows."""
    number: int = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()[0]
    return number


def places_in(inventory: Inventory) -> At:
    """The node of a value, by the way to it, for messages; entries have their id in place of a number."""

    def at(kind: str, number: int, *steps: str | int) -> Node:
        entry: Entry = getattr(inventory, kind)[number]
        return document(of_entry(entry), f"{kind}[{entry.id}]").at(*steps)

    return at


class Contents:
    """The values in the database; what has not changed is not parsed again. Not for two threads at once."""

    def __init__(self) -> None:
        self._parsed: dict[bytes, Entry] = {}

    def read(self, database: sqlite3.Connection) -> Inventory:
        """The inventory; raises `ConfigError` when somebody else has written what is not allowed."""
        parsed: dict[bytes, Entry] = {}
        entries: dict[Kind, list[Entry]] = {kind: [] for kind in KINDS}
        for kind, id_, text in database.execute("SELECT kind, id, document FROM resources ORDER BY position"):
            digest = hashlib.sha256(f"{kind} {text}".encode()).digest()
            entry = self._parsed.get(digest) or KINDS[kind](document(json.loads(text), f"{kind}[{id_}]"))
            parsed[digest] = entry
            entries[kind].append(entry)
        self._parsed = parsed
        of_kinds: dict[str, Any] = {kind: tuple(found) for kind, found in entries.items()}
        inventory = Inventory(**of_kinds)
        check_inventory(inventory, places_in(inventory))
        return inventory


class Reader:
    """A database as a file that is read again when it changes (`mdmw.reloading`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._contents = Contents()

    def look(self) -> int | None:
        """Another value when there is something new; None when that cannot be said."""
        try:
            with reading(self._path) as database:
                return last_change(database)
        except ConfigError:
            return None

    def read(self) -> Inventory:
        """The inventory; raises `ConfigError`."""
        with reading(self._path) as database:
            return self._contents.read(database)
