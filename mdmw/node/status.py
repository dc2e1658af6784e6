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
from mdmw.observe.node_status import FILE, VERSION
from mdmw.observe.seldom import Seldom

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


@dataclass(frozen=True, slots=True)
class State:
    """All that is told; `plan` is None where nobody plans."""

    listeners: tuple[Listener, ...]
    plan: PlanState | None


class Status:
    """Writes the file in `directory`, for root and the group of the workers.

    `describe` gives the state, or None while another keeper has the say.
    """

    def __init__(
        self, loop: Loop, directory: Path, group: int, since: float, describe: Callable[[], State | None]
    ) -> None:
        self._loop = loop
        self._path = directory / FILE
        self._group = group
        self._since = since
        self._describe = describe
        self._written: State | None = None
        self._texts: dict[int, tuple[Listener, str]] = {}  # by the id() of the listener
        self._seldom = Seldom()

    def tick(self) -> None:
        """Once a second, beginning now."""
        state = self._describe()
        if state is not None and state != self._written:
            try:
                self._write(state)
            except OSError as error:
                if self._seldom.due(self):
                    LOG.warning("%s cannot be written: %s (said once a minute)", self._path, error.strerror)
            else:
                self._written = state
        self._loop.after(_EVERY, self.tick)

    def _write(self, state: State) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor has no path
            os.fchown(descriptor, -1, self._group)
            os.fchmod(descriptor, 0o640)
            file.write(self._text(state))
        temporary.replace(self._path)

    def _text(self, state: State) -> str:
        """JSON; that of a listener is made once, or who attaches another waits until it is of a thousand."""
        known = self._texts
        self._texts = {id(one): known.get(id(one)) or (one, _json(_listener(one))) for one in state.listeners}
        listeners = ",".join(text for _, text in self._texts.values())
        return f'{_json(_document(state, self._since)).removesuffix("}")},"listeners":[{listeners}]}}'


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


def _document(state: State, since: float) -> dict[str, Any]:
    """Without the listeners."""
    plan = state.plan
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
