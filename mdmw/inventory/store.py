"""An inventory in a database that is changed resource by resource, with a record of each change.

A document is one entry of `etc/inventory.yaml` as JSON values. The store returns documents in one form:
addresses are normalised, defaults are left out, and bytes are text or `..._base64`.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mdmw import checked_yaml
from mdmw.errors import BadRequest, ConfigError, Conflict, NotFound, Outdated, Unavailable
from mdmw.inventory import claims, sqlite
from mdmw.inventory.entries import Entry, check_inventory, of_entry
from mdmw.inventory.sqlite import KINDS, LAYOUT, Contents, Kind, last_change, layout_of, places_in
from mdmw.inventory.values import Inventory
from mdmw.records import is_uuid

_LARGEST = 2**63 - 1  # the largest number of SQLite


@dataclass(frozen=True, slots=True)
class Caller:
    """The user who changes a resource. `name` is a user name, or for example "uid 0 on the socket"."""

    name: str
    user_id: str = ""
    project_id: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """The record of a change: `action` is create, replace or delete.

    `fields` are the names of the keys of the document that have another value than before.
    """

    number: int
    time: datetime
    caller: Caller
    action: str
    kind: Kind
    id: str
    old_version: int | None
    new_version: int | None
    fields: tuple[str, ...]


def record(
    database: sqlite3.Connection,
    caller: Caller,
    action: str,
    kind: Kind,
    id: str,
    old_version: int | None,
    fields: Sequence[str],
) -> int:
    """Write the record of a change, and return its number: the new version of the resource."""
    cursor = database.execute(
        "INSERT INTO changes"
        " (time, name, user_id, project_id, request_id, action, kind, id, old_version, fields)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            time.time(),
            caller.name,
            caller.user_id,
            caller.project_id,
            caller.request_id,
            action,
            kind,
            id,
            old_version,
            json.dumps(fields),
        ),
    )
    return cursor.lastrowid or 0


def forget(database: sqlite3.Connection, age: float) -> None:
    """Delete the records of changes that are older than `age` seconds."""
    database.execute("DELETE FROM changes WHERE time < ?", (time.time() - age,))


def newest(
    database: sqlite3.Connection, limit: int, before: int | None, kind: Kind | None, id: str | None
) -> list[Change]:
    """Up to `limit` changes, the newest first.

    Only changes with a number below `before`, of one kind and of one id, where these are not None.
    """
    rows = database.execute(
        "SELECT * FROM changes WHERE (?1 IS NULL OR number < ?1) AND (?2 IS NULL OR kind = ?2)"
        " AND (?3 IS NULL OR id = ?3) ORDER BY number DESC LIMIT ?4",
        (None if before is None else max(0, min(before, _LARGEST)), kind, id, limit),
    )
    return [_change(row) for row in rows]


def _change(row: sqlite3.Row) -> Change:
    return Change(
        number=row["number"],
        time=datetime.fromtimestamp(row["time"], UTC),
        caller=Caller(row["name"], row["user_id"], row["project_id"], row["request_id"]),
        action=row["action"],
        kind=row["kind"],
        id=row["id"],
        old_version=row["old_version"],
        new_version=None if row["action"] == "delete" else row["number"],
        fields=tuple(json.loads(row["fields"])),
    )


__all__ = ["Caller", "Change", "InventoryStore", "Kind", "Resource"]

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """An entry of the inventory. Each state of each resource has another version (RFC 9110 8.8.3)."""

    kind: Kind
    id: str
    version: int
    document: Document = field(repr=False)  # it may have passwords


class InventoryStore:
    """The resources of one database, for several threads and processes.

    The constructor makes a missing database, and raises `ConfigError`. `retention` is the number of seconds
    for which the record of a change is kept; 0 is for ever. Every method raises `Unavailable` when the
    database cannot be used.
    """

    def __init__(self, path: str, retention: float = 0.0) -> None:
        self._path = Path(path)
        self._retention = retention
        self._lock = threading.Lock()  # threads of one process wait here, and not for the database
        sqlite.make(self._path)
        with sqlite.reading(self._path) as database:
            Contents().read(database)

    def page(self, kind: Kind, limit: int = 1000, after: str | None = None) -> list[Resource]:
        """Up to `limit` resources after the one with the id `after`, oldest first; raises `NotFound`."""
        with self._reading() as database:
            position = 0 if after is None else _row(database, kind, after)["position"]
            rows = database.execute(
                "SELECT * FROM resources WHERE kind = ? AND position > ? ORDER BY position LIMIT ?",
                (kind, position, limit),
            )
            return [_resource(row) for row in rows]

    def get(self, kind: Kind, id: str) -> Resource:
        """One resource; raises `NotFound`."""
        with self._reading() as database:
            return _resource(_row(database, kind, id))

    def create(self, kind: Kind, document: Document, caller: Caller) -> Resource:
        """Add a resource; raises `BadRequest` for a wrong document, and `Conflict` with other resources."""
        entry = _checked(kind, document)
        with self._writing() as database:
            if _find(database, kind, entry.id) is not None:
                raise Conflict(f"{kind}[{entry.id}] is there already")
            _check(database, kind, entry.id, entry)
            made = _put(database, kind, entry, None, caller)
            claims.write_claims(database, kind, entry.id, entry)
            return made

    def replace(
        self, kind: Kind, id: str, document: Document, version: int | None, caller: Caller
    ) -> Resource:
        """Replace the document of a resource. The same document again is no change.

        `version` is the version that the caller has seen, or None for any version. Raises `NotFound`,
        `Outdated` for another version, and the errors of `create`.
        """
        entry = _checked(kind, document)
        if entry.id != id:
            raise BadRequest(f"id: {id} is allowed, the id of the replaced resource")
        with self._writing() as database:
            old = _seen(database, kind, id, version)
            _check(database, kind, id, entry)
            new = _put(database, kind, entry, old, caller)
            claims.write_claims(database, kind, id, entry)
            return new

    def delete(self, kind: Kind, id: str, version: int | None, caller: Caller) -> None:
        """Delete a resource; raises `NotFound`, `Outdated`, and `Conflict` when another resource uses it."""
        with self._writing() as database:
            old = _seen(database, kind, id, version)
            _check(database, kind, id, None)
            _remove(database, old, caller)
            claims.write_claims(database, kind, id, None)

    def fill(self, inventory: Inventory, caller: Caller, *, replace: bool = False) -> int:
        """Put a checked inventory into the database in one step, and return the number of changes.

        Raises `Conflict` when the database has resources already, unless `replace` is true.
        """
        with self._writing() as database:
            there = {
                (row["kind"], row["id"]): _resource(row)
                for row in database.execute("SELECT * FROM resources")
            }
            if there and not replace:
                raise Conflict(f"{self._path} has an inventory already")
            before = last_change(database)
            wanted = {(kind, entry.id): entry for kind in KINDS for entry in _entries(inventory, kind)}
            for key, old in there.items():
                if key not in wanted:
                    _remove(database, old, caller)
            for key, entry in wanted.items():
                _put(database, key[0], entry, there.get(key), caller)
            claims.write_all_claims(database, inventory)
            return last_change(database) - before

    def changes(
        self, limit: int = 100, before: int | None = None, kind: Kind | None = None, id: str | None = None
    ) -> list[Change]:
        """Up to `limit` changes, the newest first.

        Only changes with a number below `before`, of one kind and of one id, where these are not None.
        """
        if id is not None and not is_uuid(id):
            return []
        with self._reading() as database:
            return newest(database, limit, before, kind, id)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with sqlite.reading(self._path) as database:
                yield database
        except ConfigError as error:
            raise Unavailable(str(error)) from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, sqlite.writing(self._path) as database:
                if layout_of(database) < LAYOUT:
                    claims.add_table(database)
                yield database
                if self._retention:
                    forget(database, self._retention)
        except ConfigError as error:
            raise Unavailable(str(error)) from None


def _checked(kind: Kind, document: Document) -> Entry:
    try:
        return KINDS[kind](checked_yaml.document(document))
    except ConfigError as error:
        raise BadRequest(str(error)) from None


def _check(database: sqlite3.Connection, kind: Kind, id: str, new: Entry | None) -> None:
    """Raises `Conflict` when the other resources do not allow this change."""
    inventory = claims.affected(database, kind, id, new)
    try:
        check_inventory(inventory, places_in(inventory))
    except ConfigError as error:
        raise Conflict(str(error)) from None


def _put(
    database: sqlite3.Connection, kind: Kind, entry: Entry, old: Resource | None, caller: Caller
) -> Resource:
    document = of_entry(entry)
    fields = _differences(old.document if old else {}, document)
    if old and not fields:
        return old
    action = "replace" if old else "create"
    version = record(database, caller, action, kind, entry.id, old.version if old else None, fields)
    database.execute(
        "INSERT INTO resources (kind, id, version, document) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET version = excluded.version, document = excluded.document",
        (kind, entry.id, version, _text(document)),
    )
    return Resource(kind, entry.id, version, document)


def _remove(database: sqlite3.Connection, old: Resource, caller: Caller) -> None:
    fields = list(old.document)
    record(database, caller, "delete", old.kind, old.id, old.version, fields)
    database.execute("DELETE FROM resources WHERE kind = ? AND id = ?", (old.kind, old.id))


def _seen(database: sqlite3.Connection, kind: Kind, id: str, version: int | None) -> Resource:
    found = _resource(_row(database, kind, id))
    if version not in (None, found.version):
        raise Outdated(f"{kind}[{id}] is version {found.version} now, not {version}")
    return found


def _row(database: sqlite3.Connection, kind: Kind, id: str) -> sqlite3.Row:
    row = _find(database, kind, id)
    if row is None:
        raise NotFound(f"there is no {kind}[{id}]")
    return row


def _find(database: sqlite3.Connection, kind: Kind, id: str) -> sqlite3.Row | None:
    question = "SELECT * FROM resources WHERE kind = ? AND id = ?"
    row: sqlite3.Row | None = database.execute(question, (kind, id)).fetchone() if is_uuid(id) else None
    return row


def _resource(row: sqlite3.Row) -> Resource:
    return Resource(row["kind"], row["id"], row["version"], json.loads(row["document"]))


def _entries(inventory: Inventory, kind: Kind) -> tuple[Entry, ...]:
    entries: tuple[Entry, ...] = getattr(inventory, kind)
    return entries


def _differences(old: Document, new: Document) -> list[str]:
    """The keys that have different values. Values are compared as JSON, since in Python 1 equals True."""
    before, after = ({name: _text(value) for name, value in each.items()} for each in (old, new))
    return [name for name in before | after if before.get(name) != after.get(name)]


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
