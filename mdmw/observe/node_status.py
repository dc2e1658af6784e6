"""What mdmw-node says of itself in `node-status.json`, for those who are not root."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.errors import Unavailable
from mdmw.records import Scope
from mdmw.shapes import END_OF_TIME, exactly, list_of, number, or_null, record, text, whole
from mdmw.wire import one_line

FILE = "node-status.json"
VERSION = 1
_LONGEST = 64 * 1024 * 1024
_LARGEST_PROCESS_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening socket; `namespace` is empty when that has no name. `since`: seconds since 1970."""

    scope: Scope
    namespace: str
    address: str
    port: int
    since: float


@dataclass(frozen=True, slots=True)
class Problem:
    """What a person should know, in one line, and whom it is about if that is known."""

    scope: Scope | None
    text: str


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """The plan: from where, when it was last known to be right, when all was last as planned.

    Seconds since 1970, 0 for never.
    """

    source: str
    asked_at: float
    applied_at: float
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """`plan` is None where mdmw-node does not plan, but is told what to listen to."""

    pid: int
    since: float
    listeners: tuple[Listening, ...]
    plan: PlanStatus | None

    @property
    def is_running(self) -> bool:
        """Whether the keeper that wrote it is still there."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # it is root's
        return True


def read(path: Path) -> NodeStatus | None:
    """What the file says, None when there is none; raises `Unavailable` when it cannot be read."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LONGEST))
        return _status(document)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"{path} makes no sense: {one_line(str(error))}") from None


def _scope(value: Any, where: str) -> Scope:
    kind, id_ = list_of(text, 2)(value, where)
    return Scope(exactly("network", "router")(kind, f"{where}[0]"), id_)


def _process_id(value: Any, where: str) -> int:
    """A process id; 0 and negative numbers mean other processes to kill(2)."""
    if not 0 < whole(value, where) <= _LARGEST_PROCESS_ID:
        raise ValueError(f"{where}: only a process id is allowed")
    return int(value)


_time = number(0, END_OF_TIME)
_LISTENERS = list_of(record(scope=_scope, namespace=text, address=text, port=whole, since=_time))
_PLAN = record(
    source=text,
    asked_at=_time,
    applied_at=_time,
    problems=list_of(record(scope=or_null(_scope), text=text)),
)
_STATUS = record(
    version=exactly(VERSION), pid=_process_id, since=_time, listeners=_LISTENERS, plan=or_null(_PLAN)
)


def _status(document: Any) -> NodeStatus:
    found = _STATUS(document, "status")
    plan = found["plan"]
    if plan is not None:
        plan = PlanStatus(**{**plan, "problems": tuple(Problem(**one) for one in plan["problems"])})
    listeners = tuple(Listening(**one) for one in found["listeners"])
    return NodeStatus(found["pid"], found["since"], listeners, plan)
