"""The keeper: root, and small. Opens listening sockets in namespaces, and has others serve them.

It talks to no guest. Workers, which do, get sockets over channels on which they cannot ask for
anything; root asks over the control socket; a planner says what must be there.
"""

import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.identity import Identity
from mdmw.node import namespaces
from mdmw.node.attached import Attachment, Attachments
from mdmw.node.channel import MOST_PLACES, Message, to_bind, to_scope
from mdmw.node.control import Absent, Caller, Control, ControlError, Session, called
from mdmw.node.crew import Generation, Start, end_orphans
from mdmw.node.listeners import PLAN, Listener, Listeners
from mdmw.node.loop import Loop
from mdmw.node.namespaces import Bind
from mdmw.node.planner import Planner
from mdmw.node.status import PlanState, Status
from mdmw.node.supervisor import Supervisor
from mdmw.node.upkeep import Upkeep
from mdmw.records import Scope

LOG = logging.getLogger(__name__)

SOCKET = "node.sock"
_SESSIONS = "node.sessions"
_ATTACHED = "attached"
_OF_WORKERS = ("processes", "metrics")  # where the filters introspect and metrics have their files
_LOOK_EVERY = 1.8  # seconds between two looks at what is listened to
_AT_ONCE, _BETWEEN = 25, 0.005  # as many listeners, seconds until the next ones
_COUNT_WITHIN = 0.2
_STOP_WITHIN = 40.0  # longer than workers wait for their guests
_RENEW_PAUSE = 1.0
_RESTORE_EVERY, _RESTORE_WITHIN = 0.05, 5.0

#: A namespace, and where in it.
Place = tuple[str, Bind]


@dataclass(frozen=True, slots=True)
class Settings:
    """`start` starts a preloader; `directory` is for sockets and state.

    `plan` starts a planner, where there is one, for what `plan_source` names, and `converge` a process
    that applies what it planned, every `look_every` seconds at least.
    """

    start: Start
    workers: int
    identity: Identity
    directory: Path
    environ: Mapping[str, str]
    plan: Start | None
    plan_source: str
    converge: Start
    look_every: float


class Keeper:
    """One keeper, from its start to its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._began = time.time()
        self._status = 0
        self._is_ending = False
        self._loop = Loop()
        self._supervisor = Supervisor(settings.environ)
        self._listeners = Listeners(self._changed)
        self._attachments = Attachments(self._loop, self._listeners, settings.directory / _ATTACHED)
        self._held: dict[int, Listener] = {}  # as the supervisor knows them
        self._wanted: dict[Place, Scope] | None = None  # until somebody says
        self._coming: dict[Place, Scope] = {}
        self._refused: dict[Place, int | None] = {}
        self._generations: list[Generation] = []  # the oldest first
        self._control: Control | None = None
        self._successor: Session | None = None
        self._predecessor: Caller | None = None
        self._hand_over = contextlib.ExitStack()
        self._upkeep = Upkeep(
            self._loop, settings.converge, settings.look_every, self._listen_to, self._has_the_say
        )
        self._planner = (
            Planner(self._loop, settings.plan, self._upkeep, self._renew, self._give_up)
            if settings.plan
            else None
        )
        self._status_file = Status(
            *(self._loop, settings.directory, settings.identity.gid, self._began),
            plan=self._state_of_plan,
            may_tell=self._has_the_say,
        )

    def run(self) -> int:
        """Serve until a signal ends it, or a new keeper takes over; the exit status."""
        self._prepare()
        if not self._take_over():
            self._start_anew()
            self._open_control()
        if self._planner:
            self._planner.renew()  # workers come when it has read its options
        else:
            self._renew()
        self._loop.after(_LOOK_EVERY, self._look)
        self._status_file.tick()
        gc.freeze()  # who looks for garbage among what was imported holds up whoever attaches
        self._loop.run()
        return self._status

    def _prepare(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        (self._settings.directory / _ATTACHED).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in _OF_WORKERS:
            _give(self._settings.directory / name, self._settings.identity)
        self._loop.on_signals(
            {
                signal.SIGTERM: self._stop,
                signal.SIGINT: self._stop,
                signal.SIGHUP: self._reload,
                signal.SIGCHLD: _reap,
            }
        )

    def _end_orphans(self) -> None:
        sessions = self._settings.directory / _SESSIONS
        if sessions.exists():
            left = end_orphans({int(word) for word in sessions.read_text().split()}, self._settings.identity)
            if left:
                LOG.warning("a keeper was killed; %d processes of it make place now", left)

    def _start_anew(self) -> None:
        self._end_orphans()
        for listener in self._supervisor.kept(self._settings.environ):
            self._listeners.adopt(listener)
        self._restore(time.monotonic() + _RESTORE_WITHIN)

    def _open_control(self) -> None:
        self._control = Control(self._loop, self._settings.directory / SOCKET, self)

    def _restore(self, until: float) -> None:
        if not self._attachments.restore() and time.monotonic() < until:
            self._loop.after(_RESTORE_EVERY, lambda: self._restore(until))

    # --- workers --------------------------------------------------------------------

    def generation_ready(self, generation: Generation) -> None:
        """It serves; the one before may go."""
        if self._predecessor:
            self._open_control()
            try:
                self._predecessor.tell("taken-over")
            except ControlError as error:
                LOG.warning("the old keeper has ended before it was told to: %s", error)
                self._end_orphans()
            self._hand_over.close()
            self._predecessor = None
            self._record_sessions()
            self._supervisor.main_process(os.getpid())
        LOG.info("%d workers serve %d listeners", len(generation.workers), len(self._listeners))
        for older in self._generations[: self._generations.index(generation)]:
            if not older.is_ending:
                older.end("drain")
        self._supervisor.ready()

    def generation_failed(self, generation: Generation, why: str) -> None:
        """A new one is not needed; without the first one there is nothing to do."""
        if generation.is_ready:
            LOG.error("%s; another is started", why)
            self._loop.after(_RENEW_PAUSE, self._renew)
            return
        generation.end("stop")
        if any(older.is_ready and not older.is_ending for older in self._generations):
            LOG.error("the old configuration stays in service: %s", why)
        else:
            self._give_up(why)

    def _give_up(self, why: str) -> None:
        print(f"mdmw-node: {why}", file=sys.stderr)
        self._status = 2
        self._stop()

    def generation_over(self, generation: Generation) -> None:
        """Its last worker has ended."""
        self._generations.remove(generation)
        self._record_sessions()
        if self._is_ending and not self._generations:
            self._loop.stop()

    def _reload(self) -> None:
        if self._planner:
            self._planner.renew()
        self._renew()

    def _renew(self) -> None:
        """Start workers with the configuration as it is now."""
        if self._is_ending:
            return
        for unready in [one for one in self._generations if not (one.is_ready or one.is_ending)]:
            unready.end("stop")
        settings = self._settings
        self._generations.append(
            Generation(self._loop, settings.start, settings.workers, self._listeners.by_key, self)
        )
        self._record_sessions()

    def _record_sessions(self) -> None:
        """For the keeper after one that is killed. While there are two, only the one that serves does it."""
        if self._predecessor or self._is_ending:
            return
        path = self._settings.directory / _SESSIONS
        path.write_text("".join(f"{one.session}\n" for one in self._generations))

    def _stop(self) -> None:
        """Listen no more, and end when the requests that are being answered are."""
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

    # --- listeners ------------------------------------------------------------------

    def _changed(self, key: int) -> None:
        for generation in self._generations:
            generation.changed(key)
        listener = self._listeners.by_key.get(key)
        if listener:
            self._held[key] = listener
            self._supervisor.keep(listener)
        else:
            self._supervisor.release(self._held.pop(key))
        self._status_file.changed(key, listener)

    def _state_of_plan(self) -> PlanState | None:
        if not self._planner:
            return None
        upkeep = self._upkeep
        refused = [
            f"{bind} in {namespace}: cannot listen: {os.strerror(number or 0)}"
            for (namespace, bind), number in self._refused.items()
        ]
        problems = (*upkeep.problems, *refused)
        return PlanState(self._settings.plan_source, upkeep.planned, upkeep.applied, problems)

    def _has_the_say(self) -> bool:
        """No other keeper does, or soon will."""
        return not (self._is_ending or self._successor or self._predecessor)

    def _listen_to(self, wanted: dict[Place, Scope]) -> None:
        self._wanted = wanted
        self._converge()

    def _look(self) -> None:
        """Try again what could not be opened, and see who is alive; then look at the listeners."""
        if not (self._is_ending or self._successor):
            self._converge()
        for generation in list(self._generations):
            generation.look()
        keys = list(self._listeners.by_key)
        self._look_at([keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE)])

    def _look_at(self, parts: list[list[int]]) -> None:
        """Close what is of no more use, a part at a time: who attaches does not wait for a thousand."""
        if not parts:
            self._loop.after(_LOOK_EVERY, self._look)
            return
        first, *rest = parts
        if not (self._is_ending or self._successor) and self._listeners.close_stale(first):
            self._upkeep.soon()
            self._converge()
        self._loop.after(_BETWEEN, lambda: self._look_at(rest))

    def _converge(self) -> None:
        """Listen to what is wanted, and to nothing else that a plan once wanted."""
        if self._wanted is None:
            return
        wanted = self._wanted
        self._listeners.close(PLAN, lambda one: wanted.get((one.namespace, one.bind)) == one.scope)
        there = {(one.namespace, one.bind) for one in self._listeners if one.owner == PLAN}
        refused = {}
        for (namespace, bind), scope in wanted.items():
            if (namespace, bind) in there:
                continue
            try:
                self._listeners.open(namespace, [bind], scope, PLAN)
            except OSError as error:
                refused[namespace, bind] = error.errno
                if self._refused.get((namespace, bind)) != error.errno:
                    LOG.warning("%s, %s in %s: cannot listen: %s", scope, bind, namespace, error.strerror)
        self._refused = refused

    # --- the control socket ---------------------------------------------------------

    def obey(self, session: Session, message: Message) -> None:
        """What root wants."""
        if self._successor and message.kind in ("want", "attach", "detach", "take-over"):
            session.answer("again")
            return
        _DEEDS[message.kind](self, session, **message.fields, **_descriptors(message))

    def session_ended(self, session: Session) -> None:
        """A new keeper that goes away without a word has failed."""
        if session is self._successor and not self._is_ending:
            LOG.warning("the new keeper has ended before it could take over")
            self._successor = None

    def _want(self, session: Session, listeners: list[Any], more: bool) -> None:
        for namespace, bind, scope in listeners:
            self._coming[namespace, to_bind(bind)] = to_scope(scope)
        if not more:
            wanted, self._coming = self._coming, {}
            self._listen_to(wanted)
        session.answer("done")

    def _attach(
        self,
        session: Session,
        name: str,
        pid: int,
        scope: list[Any],
        binds: list[list[Any]],
        descriptors: tuple[int, int],
    ) -> None:
        namespace, pidfd = descriptors
        places = [to_bind(bind) for bind in binds]
        attachment = Attachment(name, pid, os.dup(pidfd))
        self._attachments.attach(attachment, namespace, to_scope(scope), places)
        LOG.info("%s: attached, %s", name, " and ".join(map(str, places)))
        session.answer("done")

    def _detach(self, session: Session, name: str) -> None:
        if not self._attachments.detach(name):
            raise ControlError(f"nothing of the name {name} is attached")
        session.answer("done")

    def _list(self, session: Session) -> None:
        for generation in self._generations:
            generation.count()
        self._loop.after(_COUNT_WITHIN, lambda: self._answer_list(session))

    def _answer_list(self, session: Session) -> None:
        workers = [worker for generation in self._generations for worker in generation.workers]
        for key, listener in self._listeners.by_key.items():
            counts = [worker.counts.get(key, (0, 0)) for worker in workers]
            session.answer(
                "listener",
                **_described(listener),
                connections=sum(so_far for so_far, _ in counts),
                open=sum(now for _, now in counts),
            )
        session.answer("done")

    def _tell_status(self, session: Session) -> None:
        session.answer(
            "status",
            pid=os.getpid(),
            since=self._began,
            listeners=len(self._listeners),
            attached=len(self._attachments.by_name),
            workers=sum(len(generation.workers) for generation in self._generations),
            planned=self._upkeep.planned,
        )
        for problem in self._upkeep.problems:
            session.answer("problem", what=problem)
        session.answer("done")

    # --- from one keeper to the next ------------------------------------------------

    def _give_over(self, session: Session) -> None:
        """All that a new keeper needs; this one goes on until the other is ready."""
        self._successor = session
        for listener in self._listeners:
            session.answer("socket", [listener.sock.fileno()], **_described(listener))
        for attachment in self._attachments.by_name.values():
            session.answer("attached", [attachment.pidfd], name=attachment.name, pid=attachment.pid)
        if self._wanted is not None:
            wanted = [
                [namespace, [bind.address, bind.port, bind.device], [scope.kind, scope.id]]
                for (namespace, bind), scope in self._wanted.items()
            ]
            for start in range(0, len(wanted) + 1, MOST_PLACES):
                session.answer("want", listeners=wanted[start : start + MOST_PLACES], more=True)
        session.answer("done")

    def _gone_over(self, session: Session) -> None:
        if session is not self._successor:
            raise ControlError("nothing was handed over")
        LOG.info("a new keeper has taken over")
        self._is_ending = True
        session.answer("done")
        self._end_all("drain")

    def _take_over(self) -> bool:
        """Take what another keeper has; False when there is none. Raises `ControlError`."""
        try:
            caller = self._hand_over.enter_context(called(self._settings.directory / SOCKET))
        except Absent:
            return False
        for message in caller.ask("take-over"):
            if message.kind == "socket":
                self._inherit(message.descriptors[0], **message.fields)
            elif message.kind == "attached":
                self._attachments.adopt(Attachment(**message.fields, pidfd=message.descriptors[0]))
            else:
                listeners = message.fields["listeners"]
                self._wanted = (self._wanted or {}) | {
                    (namespace, to_bind(bind)): to_scope(scope) for namespace, bind, scope in listeners
                }
        self._predecessor = caller
        LOG.info("taken over from another keeper: %d listeners", len(self._listeners))
        return True

    def _inherit(
        self, descriptor: int, namespace: str, bind: list[Any], scope: list[Any], owner: str, since: float
    ) -> None:
        sock = socket.socket(fileno=descriptor)
        inode = namespaces.socket_inode(sock)
        self._listeners.adopt(Listener(namespace, inode, to_bind(bind), to_scope(scope), owner, sock, since))


_DEEDS: dict[str, Callable[..., None]] = {
    "want": Keeper._want,
    "attach": Keeper._attach,
    "detach": Keeper._detach,
    "list": Keeper._list,
    "status": Keeper._tell_status,
    "take-over": Keeper._give_over,
    "taken-over": Keeper._gone_over,
}


def _descriptors(message: Message) -> dict[str, Any]:
    return {"descriptors": message.descriptors} if message.descriptors else {}


def _described(listener: Listener) -> dict[str, Any]:
    bind, scope = listener.bind, listener.scope
    return {
        "namespace": listener.namespace,
        "bind": [bind.address, bind.port, bind.device],
        "scope": [scope.kind, scope.id],
        "owner": listener.owner,
        "since": listener.since,
    }


def _give(path: Path, identity: Identity) -> None:
    """Make a directory for the workers alone, who cannot make it themselves."""
    try:
        path.mkdir(mode=0o700)
        os.chown(path, identity.uid, identity.gid, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError as error:
        LOG.warning("%s: not for the workers: %s", path, error.strerror)


def _reap() -> None:
    """Take the status of children that have ended; their channels told of it."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
