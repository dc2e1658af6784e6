"""What was changed in an inventory, when and by whom; never what it says, since there are secrets in it."""

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mdmw.inventory.sqlite import Kind

_LARGEST = 2**63 - 1  # that SQLite knows


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a change: a user's name, or for example "uid 0 on the socket"."""

    name: str
    user_id: str = ""
    project_id: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to a resource: `action` is create, replace or delete.

    `fields` are the names of the keys of its document that are not as they were before.
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
    """Write a change down; its number, which is the new version of the resource."""
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
    """Drop the changes that are older, in seconds."""
    database.execute("DELETE FROM changes WHERE time < ?", (time.time() - age,))


def newest(
    database: sqlite3.Connection, limit: int, before: int | None, kind: Kind | None, id: str | None
) -> list[Change]:
    """Up to `limit` changes, the newest first; before the one with a number, of one kind, of one id."""
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
