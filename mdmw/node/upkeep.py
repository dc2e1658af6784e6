"""Keeping a node as it is planned: the newest plan is applied, and looked after.

The work is done by processes that are root and live for one look each, one at a time: the keeper
itself stays small, and reads no plan.
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from mdmw.node.channel import FROM_CONVERGE, Message, to_bind, to_scope
from mdmw.node.crew import Start
from mdmw.node.loop import Loop
from mdmw.node.namespaces import RUN_NETNS, Bind
from mdmw.node.planner import Child
from mdmw.records import Scope

LOG = logging.getLogger(__name__)

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TICK = 0.5  # seconds
_SOON = 1.0  # after it, what is about to be made may be there
_LONGEST_LOOK = 600.0
_TIMES = 10  # as long as a look takes, at least, until the next one when nothing has happened


class Upkeep:
    """`start` starts a process that applies a plan; one looks every `look_every` seconds at least.

    `want` is told what is to be listened to. `may_act` says whether this keeper has the say.
    """

    def __init__(
        self,
        loop: Loop,
        start: Start,
        look_every: float,
        want: Callable[[dict[tuple[str, Bind], Scope]], None],
        may_act: Callable[[], bool],
    ) -> None:
        self.planned = 0.0  # when the newest plan was last known to be right, in seconds since 1970
        self.applied = 0.0  # when all was last as planned
        self._loop = loop
        self._start = start
        self._look_every = look_every
        self._want = want
        self._may_act = may_act
        self._places: Mapping[str, Any] = {}
        self._plan: int | None = None  # files; the one in force
        self._coming: int | None = None
        self._tried: int | None = None
        self._child: Child | None = None
        self._began = 0.0
        self._due = 0.0
        self._patience = _SOON  # with problems
        self._seen = _namespaces()
        self._has_happened = False
        self._doubt = ""
        self._problems: list[str] = []
        self._found: list[str] = []
        self._listeners: dict[tuple[str, Bind], Scope] = {}
        self._tick()

    @property
    def problems(self) -> list[str]:
        """What a person should know, a line each."""
        return [*([self._doubt] if self._doubt else []), *self._problems]

    def soon(self) -> None:
        """Something has happened that is worth a look."""
        self._patience = _SOON
        self._has_happened = True
        self._due = min(self._due, time.monotonic() + _SOON)

    # --- what the planner says ----------------------------------------------------------

    def apply_to(self, places: Mapping[str, Any]) -> None:
        """The places of plans, from now on."""
        self._places = places

    def offer(self, descriptor: int) -> None:
        """A plan that is newer than all others."""
        if not _is_sealed(descriptor):
            os.close(descriptor)
            self.doubt("the planner sends what can still change")
            return
        if self._coming is not None:
            os.close(self._coming)
        self._coming = descriptor
        self.confirm()
        self.soon()
        self._due = 0.0
        self._work()

    def confirm(self) -> None:
        """It is still right."""
        self.planned = time.time()
        if self._doubt:
            LOG.info("the planner sees again what there is")
        self._doubt = ""

    def doubt(self, why: str) -> None:
        """Nobody knows whether it is still right."""
        if why != self._doubt:
            LOG.warning("%s; what is in force stays in force", why)
        self._doubt = why

    # --- looks --------------------------------------------------------------------------

    def _tick(self) -> None:
        now = _namespaces()
        if now != self._seen:
            self._seen = now
            self.soon()
        if self._child and time.monotonic() > self._began + _LONGEST_LOOK:
            self._child.end()
            self._ended(self._child, f"not done after {_LONGEST_LOOK:.0f} s")
        self._work()
        self._loop.after(_TICK, self._tick)

    def _work(self) -> None:
        """Begin a look, if it is time for one."""
        plan = self._plan if self._coming is None else self._coming
        if self._child or plan is None or time.monotonic() < self._due or not self._may_act():
            return
        self._tried, self._coming = plan, None
        self._has_happened = False
        self._began = time.monotonic()
        self._found, self._listeners = [], {}
        self._child = Child(self._loop, self._start, FROM_CONVERGE, self._hear, self._ended)
        self._child.tell("apply", [plan], **self._places)

    def _hear(self, child: Child, message: Message) -> None:
        fields = message.fields
        match message.kind:
            case "listen":
                for namespace, bind, scope in fields["listeners"]:
                    self._listeners[namespace, to_bind(bind)] = to_scope(scope)
            case "problem":
                self._found.append(fields["what"])
            case "refused":
                child.end()
                self._refuse(fields["why"])
            case _:
                child.end()
                self._finish(**fields)

    def _finish(self, actions: int, waiting: int) -> None:
        if self._plan not in (None, self._tried):
            os.close(self._plan)
        self._plan = self._tried
        took = time.monotonic() - self._began
        if waiting:
            pause = _SOON
        elif self._found:
            pause = self._lose_patience()
        else:
            pause = self._look_every if actions else max(self._look_every, _TIMES * took)
        if not self._found:
            self.applied = time.time()
        self._over(pause, self._found)
        if self._may_act():
            self._want(self._listeners)

    def _refuse(self, why: str) -> None:
        """It is no plan; the one in force stays."""
        if self._tried is not None and self._tried != self._plan:
            os.close(self._tried)
        self._over(self._look_every, [f"a plan is refused: {why}"])

    def _ended(self, _child: Child, why: str) -> None:
        """Before it was done; what it tried is tried again, unless there is something newer."""
        if self._tried != self._plan and self._tried is not None:
            if self._coming is None:
                self._coming = self._tried
            else:
                os.close(self._tried)
        pause = self._lose_patience()
        self._over(pause, [f"the plan could not be applied ({why}); the last words are in the log"])

    def _over(self, pause: float, problems: list[str]) -> None:
        """The child is; another may be started after `pause`, or sooner if something has happened."""
        self._child = None
        self._remember(problems)
        self._due = time.monotonic() + (_SOON if self._has_happened else pause)

    def _lose_patience(self) -> float:
        """With what a person, or Neutron's agents, must do."""
        pause, self._patience = self._patience, min(2 * self._patience, self._look_every)
        return pause

    def _remember(self, problems: list[str]) -> None:
        for line in problems:
            if line not in self._problems:
                LOG.warning("%s", line)
        if self._problems and not problems:
            LOG.info("all is as planned again")
        self._problems = problems


def _namespaces() -> int:
    """What changes when a namespace gets a name, or loses it."""
    try:
        return RUN_NETNS.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _is_sealed(descriptor: int) -> bool:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False
