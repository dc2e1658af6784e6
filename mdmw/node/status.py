"""What the keeper tells everybody who may read it: a file, replaced as a whole when something has changed.

`mdmw.observe.node_status` reads it.
"""

import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.node.listeners import Listener
from mdmw.node.loop import Loop
from mdmw.observe.background import Seldom
from mdmw.observe.node_status import FILE, VERSION

LOG = logging.getLogger(__name__)

_EVERY = 1.0  # seconds
_NAMESPACE = re.compile("q(dhcp|router)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_KINDS = {"dhcp": "network", "router": "router"}


@dataclass(frozen=True, slots=True)
class PlanState:
    """`asked_at`: when the plan was last known to be right, `applied_at`: when the node last was as planned.

    Both are seconds since 1970, 0 for never. `problems` are a line each.
    """

    source: str
    asked_at: float
    applied_at: float
    problems: tuple[str, ...]


class Status:
    """Writes the file in `directory`, for root and the group of the workers.

    `plan` gives the state of the plan, or None where nobody plans; `may_tell` is false while another keeper
    has the say.
    """

    def __init__(
        self,
        loop: Loop,
        directory: Path,
        group: int,
        since: float,
        plan: Callable[[], PlanState | None],
        may_tell: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._path = directory / FILE
        self._group = group
        self._since = since
        self._plan = plan
        self._may_tell = may_tell
        # By key. Made one at a time: who attaches the next does not wait until all are.
        self._listeners: dict[int, str] = {}
        self._written: tuple[PlanState | None, ...] = ()
        self._seldom = Seldom()

    def changed(self, key: int, listener: Listener | None) -> None:
        """There is another listener, or one less."""
        if listener:
            self._listeners[key] = _json(_listener(listener))
        else:
            self._listeners.pop(key, None)
        self._written = ()

    def tick(self) -> None:
        """Once a second, beginning now."""
        plan = self._plan()
        if self._written != (plan,) and self._may_tell():
            try:
                self._write(plan)
            except OSError as error:
                if self._seldom.due(self):
                    LOG.warning("%s cannot be written: %s (said once a minute)", self._path, error.strerror)
            else:
                self._written = (plan,)
        self._loop.after(_EVERY, self.tick)

    def _write(self, plan: PlanState | None) -> None:
        head = _json(_document(plan, self._since)).removesuffix("}")
        text = f'{head},"listeners":[{",".join(self._listeners.values())}]}}'
        temporary = self._path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            os.fchown(descriptor, -1, self._group)
            os.fchmod(descriptor, 0o640)
            file.write(text.encode())
        temporary.replace(self._path)


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


def _document(plan: PlanState | None, since: float) -> dict[str, Any]:
    """Without the listeners."""
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "since": since,
        "plan": plan
        and {
            "source": plan.source,
            "asked_at": plan.asked_at,
            "applied_at": plan.applied_at,
            "problems": [{"scope": _scope(line), "text": line} for line in plan.problems],
        },
    }


def _scope(line: str) -> list[str] | None:
    """Of the namespace that a line is about."""
    match = _NAMESPACE.search(line)
    return [_KINDS[match[1]], match[2]] if match else None
