"""The keeper of mdmw-node: it runs as root, is small, and never talks to a guest.

The keeper opens listening sockets in namespaces and passes them to workers, which serve guests and can ask
the keeper for nothing. Root tells the keeper what to do over the control socket. A planner, if there is one,
tells it what to listen to.
"""

import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.identity import Identity
from mdmw.node.attachments import Attachment, Attachments
from mdmw.node.channel import Message, to_bind, to_scope
from mdmw.node.control import Control, ControlError, ControlSession
from mdmw.node.handover import Handover, Supervisor, described
from mdmw.node.listening import Endpoint, Listener, Listeners, PlannedListeners
from mdmw.node.loop import Loop
from mdmw.node.plan_loop import PlanLoop, Planner
from mdmw.node.status import PlanState, StatusFile
from mdmw.node.workers import Generation, Start, end_orphans
from mdmw.records import Scope

LOG = logging.getLogger(__name__)

SOCKET = "node.sock"
_SESSIONS = "node.sessions"
_ATTACHED = "attached"
_WORKERS_DIRECTORIES = (
    "processes",
    "metrics",
)  # the filters `introspect` and `metrics` have their files here
_CHECK_WORKERS_EVERY = 1.8  # seconds
_COUNT_WITHIN = 0.2  # seconds that workers have to answer with their numbers of connections
_STOP_WITHIN = 40.0  # seconds; longer than a worker waits for its guests
_RENEW_PAUSE = 1.0  # seconds
_RESTORE_EVERY, _RESTORE_WITHIN = 0.05, 5.0  # seconds


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """What a keeper must know.

    `start` starts a preloader, whose workers run as `identity`. `directory` is for sockets and state.
    `start_planner` is None when nothing says what to plan from; `plan_source` is the name of the planner's
    source for the status file. `start_converge` starts a process that applies a plan once; the keeper has
    this done every `look_every` seconds at least.
    """

    start: Start
    workers: int
    identity: Identity
    directory: Path
    environ: Mapping[str, str]
    start_planner: Start | None
    plan_source: str
    start_converge: Start
    look_every: float


class Keeper:
    """One keeper, from its start to its end."""

    def __init__(self, settings: KeeperSettings) -> None:
        self._settings = settings
        self._began = time.time()
        self._exit_status = 0
        self._is_ending = False
        self._loop = Loop()
        self._supervisor = Supervisor(settings.environ)
        self._listeners = Listeners(self._listener_changed)
        self._held_by_supervisor: dict[int, Listener] = {}
        self._attachments = Attachments(self._loop, self._listeners, settings.directory / _ATTACHED)
        self._generations: list[Generation] = []  # the oldest first
        self._control: Control | None = None
        self._coming: dict[Endpoint, Scope] = {}  # of `want` messages whose last one has not come yet
        self._plan_loop = PlanLoop(
            self._loop, settings.start_converge, settings.look_every, self._listen_at, self._may_act
        )
        self._planned = PlannedListeners(
            self._loop, self._listeners, self._may_act, self._plan_loop.run_early
        )
        self._handover = Handover(
            settings.directory / SOCKET, self._listeners, self._attachments, self._planned
        )
        self._planner = (
            Planner(self._loop, settings.start_planner, self._plan_loop, self._renew, self._give_up)
            if settings.start_planner
            else None
        )
        self._status_file = StatusFile(
            *(self._loop, settings.directory, settings.identity.gid, self._began),
            plan=self._plan_state,
            may_act=self._may_act,
        )

    def run(self) -> int:
        """Serve until a signal ends it or a new keeper takes over; the exit status. Raises `ControlError`."""
        self._prepare()
        if not self._handover.take_over():
            self._start_anew()
            self._open_control()
        if self._planner:
            self._planner.renew()  # the first workers are started when the planner has read its options
        else:
            self._renew()
        self._loop.after(_CHECK_WORKERS_EVERY, self._check_workers)
        self._planned.start_checks()
        self._status_file.tick()
        gc.freeze()  # without it a garbage collection of all imported modules delays callers
        self._loop.run()
        return self._exit_status

    # --- start and end ------------------------------------------------------------------

    def _prepare(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        (self._settings.directory / _ATTACHED).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in _WORKERS_DIRECTORIES:
            _make_for(self._settings.directory / name, self._settings.identity)
        self._loop.on_signals(
            {
                signal.SIGTERM: self._stop,
                signal.SIGINT: self._stop,
                signal.SIGHUP: self._reload,
                signal.SIGCHLD: _reap,
            }
        )

    def _start_anew(self) -> None:
        """Start without a keeper to take over from: with the listeners that systemd and the files know."""
        self._end_orphans()
        for listener in self._supervisor.kept(self._settings.environ):
            self._listeners.adopt(listener)
        self._restore(time.monotonic() + _RESTORE_WITHIN)

    def _end_orphans(self) -> None:
        sessions = self._settings.directory / _SESSIONS
        if sessions.exists():
            left = end_orphans({int(word) for word in sessions.read_text().split()}, self._settings.identity)
            if left:
                LOG.warning("a keeper was killed; %d processes that it left behind are ended", left)

    def _restore(self, deadline: float) -> None:
        if not self._attachments.restore() and time.monotonic() < deadline:
            self._loop.after(_RESTORE_EVERY, lambda: self._restore(deadline))

    def _open_control(self) -> None:
        path = self._settings.directory / SOCKET
        try:
            self._control = Control(self._loop, path, self)
        except OSError as error:
            raise ControlError(f"{path}: the control socket cannot be opened: {error.strerror}") from None

    def _reload(self) -> None:
        if self._planner:
            self._planner.renew()
        self._renew()

    def _give_up(self, why: str) -> None:
        print(f"mdmw-node: {why}", file=sys.stderr)
        self._exit_status = 2
        self._stop()

    def _stop(self) -> None:
        """Listen no more, and end when the requests under way have their answers."""
        if self._is_ending:
            return
        self._is_ending = True
        self._end_all("stop")
        for listener in self._listeners:
            listener.sock.close()

    def _end_all(self, word: str) -> None:
        if self._control:
            self._control.close()
        if self._planner:
            self._planner.end()
        self._loop.after(_STOP_WITHIN, self._loop.stop)
        if not self._generations:
            self._loop.stop()
        for generation in list(self._generations):
            generation.end(word)

    def _may_act(self) -> bool:
        """Whether this keeper decides, and not an older or a newer one."""
        return not (self._is_ending or self._handover.has_successor or self._handover.has_predecessor)

    # --- workers ------------------------------------------------------------------------

    def generation_ready(self, generation: Generation) -> None:
        """The generation serves: the generations before it, and the keeper before this one, may go."""
        if self._handover.has_predecessor:
            try:
                self._open_control()
            except ControlError as error:
                self._give_up(str(error))
                return
            if not self._handover.complete():
                self._end_orphans()
            self._record_sessions()
            self._supervisor.main_process(os.getpid())
        LOG.info("%d workers serve %d listeners", len(generation.workers), len(self._listeners))
        for older in self._generations[: self._generations.index(generation)]:
            if not older.is_ending:
                older.end("drain")
        self._supervisor.ready()

    def generation_failed(self, generation: Generation, why: str) -> None:
        """The preloader has ended: an older generation goes on, or there is nothing left to do."""
        if generation.is_ready:
            LOG.error("%s; another preloader is started", why)
            self._loop.after(_RENEW_PAUSE, self._renew)
            return
        generation.end("stop")
        self._cannot_renew(why)

    def generation_over(self, generation: Generation) -> None:
        """The last worker of the generation has ended."""
        self._generations.remove(generation)
        self._record_sessions()
        if self._is_ending and not self._generations:
            self._loop.stop()

    def _renew(self) -> None:
        """Start a generation with the configuration as it is now."""
        if self._is_ending:
            return
        for unready in [one for one in self._generations if not (one.is_ready or one.is_ending)]:
            unready.end("stop")
        settings = self._settings
        try:
            generation = Generation(
                self._loop, settings.start, settings.workers, self._listeners.by_key, self
            )
        except OSError as error:
            self._cannot_renew(f"the preloader of the workers cannot be started: {error}")
            return
        self._generations.append(generation)
        self._record_sessions()

    def _cannot_renew(self, why: str) -> None:
        if any(older.is_ready and not older.is_ending for older in self._generations):
            LOG.error("the old configuration stays in service: %s", why)
        else:
            self._give_up(why)

    def _record_sessions(self) -> None:
        """Write down whose processes to end if this keeper is killed; an old keeper does so until it ends."""
        if self._handover.has_predecessor or self._is_ending:
            return
        path = self._settings.directory / _SESSIONS
        try:
            path.write_text("".join(f"{one.session}\n" for one in self._generations))
        except OSError as error:
            LOG.warning("%s cannot be written: %s", path, error.strerror)

    def _check_workers(self) -> None:
        for generation in list(self._generations):
            generation.check()
        self._loop.after(_CHECK_WORKERS_EVERY, self._check_workers)

    # --- listeners ----------------------------------------------------------------------

    def _listener_changed(self, key: int) -> None:
        for generation in self._generations:
            generation.listener_changed(key)
        listener = self._listeners.by_key.get(key)
        if listener:
            self._held_by_supervisor[key] = listener
            self._supervisor.keep(listener)
        else:
            self._supervisor.release(self._held_by_supervisor.pop(key))
        self._status_file.changed(key, listener)

    def _listen_at(self, endpoints: Mapping[Endpoint, Scope]) -> None:
        self._planned.listen_at(endpoints)

    def _plan_state(self) -> PlanState | None:
        if not self._planner:
            return None
        loop = self._plan_loop
        problems = (*loop.problems, *self._planned.problems)
        return PlanState(self._settings.plan_source, loop.planned_at, loop.applied_at, problems)

    # --- what root asks over the control socket -----------------------------------------

    def obey(self, session: ControlSession, message: Message) -> None:
        """Do what a message asks, and answer it."""
        if self._handover.has_successor and message.kind in ("want", "attach", "detach", "take-over"):
            session.answer("again")
            return
        descriptors = {"descriptors": message.descriptors} if message.descriptors else {}
        _METHODS[message.kind](self, session, **message.fields, **descriptors)

    def session_ended(self, session: ControlSession) -> None:
        """A caller has closed its end."""
        if not self._is_ending:
            self._handover.session_ended(session)

    def _want(self, session: ControlSession, listeners: list[Any], more: bool) -> None:
        for namespace, bind, scope in listeners:
            self._coming[namespace, to_bind(bind)] = to_scope(scope)
        if not more:
            endpoints, self._coming = self._coming, {}
            self._listen_at(endpoints)
        session.answer("done")

    def _attach(
        self,
        session: ControlSession,
        name: str,
        pid: int,
        scope: list[Any],
        binds: list[list[Any]],
        descriptors: tuple[int, int],
    ) -> None:
        namespace, pidfd = descriptors
        parsed = [to_bind(bind) for bind in binds]
        attachment = Attachment(name, pid, os.dup(pidfd))  # the session closes the descriptors of a message
        self._attachments.attach(attachment, namespace, to_scope(scope), parsed)
        LOG.info("%s: attached, %s", name, " and ".join(map(str, parsed)))
        session.answer("done")

    def _detach(self, session: ControlSession, name: str) -> None:
        if not self._attachments.detach(name):
            raise ControlError(f"nothing of the name {name} is attached")
        session.answer("done")

    def _list(self, session: ControlSession) -> None:
        for generation in self._generations:
            generation.count()
        self._loop.after(_COUNT_WITHIN, lambda: self._answer_list(session))

    def _answer_list(self, session: ControlSession) -> None:
        workers = [worker for generation in self._generations for worker in generation.workers]
        for key, listener in self._listeners.by_key.items():
            counts = [worker.counts.get(key, (0, 0)) for worker in workers]
            session.answer(
                "listener",
                **described(listener),
                connections=sum(accepted for accepted, _ in counts),
                open=sum(now for _, now in counts),
            )
        session.answer("done")

    def _answer_status(self, session: ControlSession) -> None:
        session.answer(
            "status",
            pid=os.getpid(),
            since=self._began,
            listeners=len(self._listeners),
            attached=len(self._attachments.by_name),
            workers=sum(len(generation.workers) for generation in self._generations),
            planned=self._plan_loop.planned_at,
        )
        for problem in self._plan_loop.problems:
            session.answer("problem", what=problem)
        session.answer("done")

    def _give(self, session: ControlSession) -> None:
        self._handover.give(session)

    def _end_after_handover(self, session: ControlSession) -> None:
        self._handover.check_successor(session)
        LOG.info("a new keeper has taken over")
        self._is_ending = True
        session.answer("done")
        self._end_all("drain")


_METHODS: dict[str, Callable[..., None]] = {
    "want": Keeper._want,
    "attach": Keeper._attach,
    "detach": Keeper._detach,
    "list": Keeper._list,
    "status": Keeper._answer_status,
    "take-over": Keeper._give,
    "taken-over": Keeper._end_after_handover,
}


def _make_for(path: Path, identity: Identity) -> None:
    """Make a directory that belongs to the workers, which may not make it themselves."""
    try:
        path.mkdir(mode=0o700)
        os.chown(path, identity.uid, identity.gid, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError as error:
        LOG.warning("%s: the directory cannot be given to the workers: %s", path, error.strerror)


def _reap() -> None:
    """Collect the exit status of each child that has ended; its channel has told the keeper already."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
