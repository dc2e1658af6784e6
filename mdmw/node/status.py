"""The status file of the keeper: what mdmw-node listens to and plans, for everybody who may read the file.

The keeper replaces the file as a whole when something has changed. `mdmw.observe.node_status` reads it.
"""

import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.node.listening import Listener
from mdmw.node.loop import Loop
from mdmw.observe.node_status import FILE, VERSION

LOG = logging.getLogger(__name__)

_EVERY = 1.0  # seconds
_NAMESPACE = re.compile("q(dhcp|router)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_KINDS = {"dhcp": "network", "router": "router"}


@dataclass(frozen=True, slots=True)
class PlanState:
    """How planning goes.

    `asked_at` is when the plan was last known to be right, `applied_at` when the node last was as planned:
    seconds since 1970, 0 for never. `problems` has one line for each problem.
    """

    source: str
    asked_at: float
    applied_at: float
    problems: tuple[str, ...]


class StatusFile:
    """Writes the file in `directory`. Root and the group `group` of the workers may read it.

    `since` is when the keeper started, in seconds since 1970. `plan` returns how planning goes, or None
    without a planner. `may_act` is false while another keeper decides, and then that keeper writes the file.
    """

    def __init__(
        self,
        loop: Loop,
        directory: Path,
        group: int,
        since: float,
        plan: Callable[[], PlanState | None],
        may_act: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._path = directory / FILE
        self._group = group
        self._since = since
        self._plan = plan
        self._may_act = may_act
        # JSON by key of the listener, made one at a time: a caller that attaches waits for one, not for all.
        self._listeners: dict[int, str] = {}
        self._written: tuple[PlanState | None, ...] = ()
        self._error = ""

    def changed(self, key: int, listener: Listener | None) -> None:
        """Note that the listener with this key has come, or has gone (None)."""
        if listener:
            self._listeners[key] = _json(_listener(listener))
        else:
            self._listeners.pop(key, None)
        self._written = ()

    def tick(self) -> None:
        """Write the file if something has changed; once called, this repeats every second."""
        plan = self._plan()
        if self._written != (plan,) and self._may_act():
            try:
                self._write(plan)
            except OSError as error:
                if str(error) != self._error:
                    LOG.warning("%s cannot be written: %s", self._path, error.strerror)
                self._error = str(error)
            else:
                self._written = (plan,)
                self._error = ""
        self._loop.after(_EVERY, self.tick)

    def _write(self, plan: PlanState | None) -> None:
        head = _json(_without_listeners(plan, self._since)).removesuffix("}")
        text = f'{head},"listeners":[{",".join(self._listeners.values())}]}}'
        temporary = self._path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            os.fchown(descriptor, -1, self._group)
            os.fchmod(descriptor, 0o640)
            file.write(text.encode())
        temporary.replace(self._path)


def scope_of(line: str) -> list[str] | None:
    """Kind and id of the network or router whose namespace a line names; None without a namespace."""
    match = _NAMESPACE.search(line)
    return [_KINDS[match[1]], match[2]] if match else None


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _listener(listener: Listener) -> dict[str, Any]:
    return {
        "scope": [listener.scope.kind, listener.scope.id],
        "namespace": listener.namespace,
        "address": listener.bind.address,
        "port": listener.bind.port,
        "since": listener.since,
    }


def _without_listeners(plan: PlanState | None, since: float) -> dict[str, Any]:
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "since": since,
        "plan": plan
        and {
            "source": plan.source,
            "asked_at": plan.asked_at,
            "applied_at": plan.applied_at,
            "problems": [{"scope": scope_of(line), "text": line} for line in plan.problems],
        },
    }
