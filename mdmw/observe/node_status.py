"""What mdmw-node says of itself in `node-status.json`, for those who are not root."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.errors import Unavailable
from mdmw.records import Scope

FILE = "node-status.json"
VERSION = 1
_LONGEST = 64 * 1024 * 1024


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
    except (ValueError, TypeError, LookupError, RecursionError):
        raise Unavailable(f"{path} makes no sense") from None


def _status(document: Any) -> NodeStatus:
    if document["version"] != VERSION:
        raise ValueError
    plan = document["plan"]
    return NodeStatus(
        pid=_positive(document["pid"]),
        since=float(document["since"]),
        listeners=tuple(
            Listening(
                _scope(one["scope"]),
                str(one["namespace"]),
                str(one["address"]),
                int(one["port"]),
                float(one["since"]),
            )
            for one in document["listeners"]
        ),
        plan=None if plan is None else _plan(plan),
    )


def _plan(plan: Any) -> PlanStatus:
    problems = tuple(
        Problem(None if one["scope"] is None else _scope(one["scope"]), str(one["text"]))
        for one in plan["problems"]
    )
    return PlanStatus(str(plan["source"]), float(plan["asked_at"]), float(plan["applied_at"]), problems)


def _scope(listed: Any) -> Scope:
    kind, id_ = listed
    if kind not in ("network", "router") or not isinstance(id_, str):
        raise ValueError
    return Scope(kind, id_)


def _positive(number: Any) -> int:
    """A process id; others mean something else to kill(2)."""
    if not isinstance(number, int) or number <= 0:
        raise ValueError
    return number
