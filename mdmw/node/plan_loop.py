"""The keeper's side of planning: the planner makes plans, and short-lived processes apply the newest plan.

The keeper reads no plan, so it stays small. It passes each plan, as a sealed file in memory, from the planner
to a process that runs as root, applies the plan once, and ends. One such process runs at a time.
"""

import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mdmw.node.channel import (
    FROM_CONVERGE,
    FROM_PLANNER,
    Channel,
    ChannelError,
    Message,
    Shape,
    pair,
    to_bind,
    to_scope,
)
from mdmw.node.loop import Loop
from mdmw.node.namespaces import RUN_NETNS, Bind
from mdmw.node.workers import Start
from mdmw.records import Scope

LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds until a planner that has ended is started again
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TICK = 0.5  # seconds between two looks at whether a run is due
_EARLY_RUN = 1.0  # seconds after an event; then also what the event leads to has happened
_LONGEST_RUN = 600.0  # seconds
_REST_FACTOR = 10  # a run without work is followed by a pause of at least this many times its length


class ChildProcess:
    """A process with a channel to it.

    `start` starts the process. `hear` is called with each message. `ended` is called once when the process
    has ended or has sent what it must not, but not after a call of `end`. The constructor raises OSError.
    """

    def __init__(
        self,
        loop: Loop,
        start: Start,
        accepts: Mapping[str, Shape],
        hear: Callable[["ChildProcess", Message], None],
        ended: Callable[["ChildProcess", str], None],
    ) -> None:
        self._loop = loop
        self._on_message = hear
        self._on_end = ended
        ours, its = pair()
        with its, contextlib.ExitStack() as on_error:
            on_error.callback(ours.close)
            ours.setblocking(False)
            loop.watch(ours.fileno(), self._hear)
            on_error.callback(loop.forget, ours.fileno())
            self._pidfd = os.pidfd_open(start(its))
            on_error.pop_all()
        self._channel = Channel(ours, accepts)

    def tell(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send a short message. If the process has ended, `ended` is called later."""
        with contextlib.suppress(OSError):
            self._channel.send(kind, descriptors, **fields)

    def end(self) -> None:
        """Send SIGTERM and receive no more messages; safe to call twice."""
        if self._channel.sock.fileno() < 0:
            return
        self._loop.forget(self._channel.sock.fileno())
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
        os.close(self._pidfd)

    def _hear(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        except (ChannelError, OSError) as error:
            self.end()
            self._on_end(self, str(error))
            return
        self._on_message(self, message)


class PlanEvents(Protocol):
    """The receiver of the messages of a planner."""

    def set_places(self, places: Mapping[str, Any]) -> None:
        """Where plans must be applied: the fields of the message `places`."""

    def take_plan(self, descriptor: int) -> None:
        """A new plan, in a file that the receiver must close."""

    def confirm_plan(self) -> None:
        """The newest plan is still right."""

    def report_trouble(self, why: str) -> None:
        """The planner cannot read its source, for this reason."""


class Planner:
    """The planner: a process, and the process that follows it after an end or after `renew`.

    `ready` is called once, when the first process has read its options. `refused` is called with one line
    when the first process cannot read them. When a later process cannot read them, a line goes to the log and
    the process before it goes on.
    """

    def __init__(
        self,
        loop: Loop,
        start: Start,
        events: PlanEvents,
        ready: Callable[[], None],
        refused: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._start = start
        self._events = events
        self._on_ready = ready
        self._on_refused = refused
        self._current: ChildProcess | None = None
        self._next: ChildProcess | None = None
        self._is_first = True
        self._is_ending = False
        self._pause = _FIRST_PAUSE

    def renew(self) -> None:
        """Start a process with the options as they are now. It replaces the current one once it has them."""
        if self._is_ending:
            return
        if self._next:
            self._next.end()
            self._next = None
        try:
            self._next = ChildProcess(self._loop, self._start, FROM_PLANNER, self._hear, self._ended)
        except OSError as error:
            self._ended(None, f"the planner cannot be started: {error}")

    def end(self) -> None:
        """End the processes, and start no more."""
        self._is_ending = True
        for child in (self._current, self._next):
            if child:
                child.end()

    def _hear(self, child: ChildProcess, message: Message) -> None:
        # `places` counts only as the first message: then the process is still privileged, and has met nobody.
        match message.kind, child is self._next:
            case "places", True:
                self._takes_over(child, message.fields)
            case "refused", True:
                child.end()
                self._ended(child, str(message.fields["why"]))
            case "plan", False:
                self._pause = _FIRST_PAUSE
                self._events.take_plan(message.descriptors[0])
            case "same", False:
                self._pause = _FIRST_PAUSE
                self._events.confirm_plan()
            case "trouble", False:
                self._events.report_trouble(str(message.fields["why"]))
            case _:
                for descriptor in message.descriptors:
                    os.close(descriptor)
                child.end()
                self._ended(child, f"it sent {message.kind!r} at the wrong time")

    def _takes_over(self, child: ChildProcess, places: Mapping[str, Any]) -> None:
        if self._current:
            self._current.end()
        self._current, self._next = child, None
        self._events.set_places(places)
        if self._is_first:
            self._is_first = False
            self._on_ready()

    def _ended(self, child: ChildProcess | None, why: str) -> None:
        if child is self._next:
            self._next = None
        else:
            self._current = None
        if self._is_first:
            self._on_refused(why)
        elif self._current:
            LOG.error("the planner keeps the options that it has; it cannot use the new ones: %s", why)
        else:
            LOG.error("the planner has ended (%s); another is started, and the last plan stays in force", why)
            self._loop.after(self._pause, self._start_again)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _start_again(self) -> None:
        if not (self._current or self._next):
            self.renew()


class PlanLoop:
    """Has the newest plan applied when it arrives, after each event, and every `look_every` seconds.

    `start` starts a process that applies a plan once. `listen_at` is called with what must be listened to
    after each run. `may_act` says whether this keeper is the one that decides.
    """

    def __init__(
        self,
        loop: Loop,
        start: Start,
        look_every: float,
        listen_at: Callable[[Mapping[tuple[str, Bind], Scope]], None],
        may_act: Callable[[], bool],
    ) -> None:
        #: When the newest plan was last known to be right, and when the node was last as planned: seconds
        #: since 1970, 0 for never.
        self.planned_at = 0.0
        self.applied_at = 0.0
        self._loop = loop
        self._start = start
        self._look_every = look_every
        self._listen_at = listen_at
        self._may_act = may_act
        self._places: Mapping[str, Any] = {}
        # Descriptors of plans: in force, newer and not yet tried, tried by the process that runs.
        self._plan: int | None = None
        self._new_plan: int | None = None
        self._tried_plan: int | None = None
        self._child: ChildProcess | None = None
        self._run_began = 0.0
        self._due = 0.0
        self._retry_pause = _EARLY_RUN
        self._namespaces_seen = _namespaces_changed_at()
        self._event_since_start = False
        self._trouble = ""
        self._problems: list[str] = []
        # What the process that runs has said so far.
        self._new_problems: list[str] = []
        self._new_endpoints: dict[tuple[str, Bind], Scope] = {}
        self._tick()

    @property
    def problems(self) -> list[str]:
        """One line for each thing that an operator must know or do."""
        return [*([self._trouble] if self._trouble else []), *self._problems]

    def run_early(self) -> None:
        """Something has happened, so apply the plan again in a second."""
        self._retry_pause = _EARLY_RUN
        self._event_since_start = True
        self._due = min(self._due, time.monotonic() + _EARLY_RUN)

    # --- what the planner says ----------------------------------------------------------

    def set_places(self, places: Mapping[str, Any]) -> None:
        """Apply plans at these places from now on."""
        self._places = places

    def take_plan(self, descriptor: int) -> None:
        """Apply this plan, which is newer than all others. The descriptor belongs to this object now."""
        if not _is_sealed(descriptor):
            os.close(descriptor)
            self.report_trouble("the planner sent a plan that is not sealed")
            return
        if self._new_plan is not None:
            os.close(self._new_plan)
        self._new_plan = descriptor
        self.confirm_plan()
        self.run_early()
        self._due = 0.0
        self._run_if_due()

    def confirm_plan(self) -> None:
        """Note that the newest plan is right at this moment."""
        self.planned_at = time.time()
        if self._trouble:
            LOG.info("the planner can read its source again")
        self._trouble = ""

    def report_trouble(self, why: str) -> None:
        """Note that nobody knows whether the newest plan is still right."""
        if why != self._trouble:
            LOG.warning("%s; the last plan stays in force", why)
        self._trouble = why

    # --- one run after the other --------------------------------------------------------

    def _tick(self) -> None:
        changed_at = _namespaces_changed_at()
        if changed_at != self._namespaces_seen:
            self._namespaces_seen = changed_at
            self.run_early()
        if self._child and time.monotonic() > self._run_began + _LONGEST_RUN:
            self._child.end()
            self._ended(self._child, f"not done after {_LONGEST_RUN:.0f} s")
        self._run_if_due()
        self._loop.after(_TICK, self._tick)

    def _run_if_due(self) -> None:
        plan = self._plan if self._new_plan is None else self._new_plan
        if self._child or plan is None or time.monotonic() < self._due or not self._may_act():
            return
        self._tried_plan, self._new_plan = plan, None
        self._event_since_start = False
        self._run_began = time.monotonic()
        self._new_problems, self._new_endpoints = [], {}
        try:
            self._child = ChildProcess(self._loop, self._start, FROM_CONVERGE, self._hear, self._ended)
        except OSError as error:
            self._ended(None, f"the process cannot be started: {error}")
        else:
            self._child.tell("apply", [plan], **self._places)

    def _hear(self, child: ChildProcess, message: Message) -> None:
        fields = message.fields
        match message.kind:
            case "listen":
                for namespace, bind, scope in fields["listeners"]:
                    self._new_endpoints[namespace, to_bind(bind)] = to_scope(scope)
            case "problem":
                self._new_problems.append(fields["what"])
            case "refused":
                child.end()
                self._refused(fields["why"])
            case _:
                child.end()
                self._applied(**fields)

    def _applied(self, actions: int, waiting: int) -> None:
        """The process has applied the plan: this plan is in force now."""
        if self._plan is not None and self._plan != self._tried_plan:
            os.close(self._plan)
        self._plan = self._tried_plan
        took = time.monotonic() - self._run_began
        if waiting:
            pause = _EARLY_RUN
        elif self._new_problems:
            pause = self._next_retry_pause()
        else:
            pause = self._look_every if actions else max(self._look_every, _REST_FACTOR * took)
        if not self._new_problems:
            self.applied_at = time.time()
        self._run_over(pause, self._new_problems)
        if self._may_act():
            self._listen_at(self._new_endpoints)

    def _refused(self, why: str) -> None:
        """The file is not a plan: the plan before it stays in force."""
        if self._tried_plan is not None and self._tried_plan != self._plan:
            os.close(self._tried_plan)
        self._run_over(self._look_every, [f"a plan is refused: {why}"])

    def _ended(self, _child: ChildProcess | None, why: str) -> None:
        """The process has ended too early: try its plan again, unless there is a newer one."""
        if self._tried_plan is not None and self._tried_plan != self._plan:
            if self._new_plan is None:
                self._new_plan = self._tried_plan
            else:
                os.close(self._tried_plan)
        pause = self._next_retry_pause()
        self._run_over(pause, [f"the plan could not be applied ({why}); the log says more"])

    def _run_over(self, pause: float, problems: list[str]) -> None:
        """No process runs any more; the next run is after `pause` seconds, or earlier after an event."""
        self._child = None
        self._log_changes(problems)
        self._due = time.monotonic() + (_EARLY_RUN if self._event_since_start else pause)

    def _next_retry_pause(self) -> float:
        """Seconds until the next run while there are problems: doubled each time, up to `look_every`."""
        pause, self._retry_pause = self._retry_pause, min(2 * self._retry_pause, self._look_every)
        return pause

    def _log_changes(self, problems: list[str]) -> None:
        for line in problems:
            if line not in self._problems:
                LOG.warning("%s", line)
        if self._problems and not problems:
            LOG.info("the node is as planned again")
        self._problems = problems


def _namespaces_changed_at() -> int:
    """A number that changes when a namespace gets a name or loses its name."""
    try:
        return RUN_NETNS.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _is_sealed(descriptor: int) -> bool:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False
