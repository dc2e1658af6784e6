"""The workers as the keeper sees them: generations, each of one preloader and what it forked."""

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from mdmw.identity import Identity
from mdmw.node.channel import FROM_PRELOADER, FROM_WORKER, Channel, ChannelError, pair
from mdmw.node.loop import Loop
from mdmw.records import Scope

LOG = logging.getLogger(__name__)

#: The module that a preloader runs, and so do its workers.
PRELOADER = "mdmw.cli.node_worker"

_RESPAWN_PAUSE = 1.0  # seconds, when a worker ended soon after it began
_SOON = 5.0
_MOST_SILENT = 5  # questions without an answer; counted, so that a pause of the whole machine is one of them


class Served(Protocol):
    """A listening socket, as far as workers are concerned."""

    @property
    def sock(self) -> socket.socket:
        """The socket."""

    @property
    def scope(self) -> Scope:
        """Whose guests arrive there."""

    @property
    def on_link(self) -> bool:
        """Whether no router is between its guests and it."""


Start = Callable[[socket.socket], int]


class Events(Protocol):
    """Who is told what becomes of a generation."""

    def generation_ready(self, generation: "Generation") -> None:
        """For the first time, as many workers as wanted serve."""

    def generation_failed(self, generation: "Generation", why: str) -> None:
        """Its preloader has ended: there are no workers yet, or there will be no new ones."""

    def generation_over(self, generation: "Generation") -> None:
        """It was to end, and its last worker has."""


class Generation:
    """One preloader and its workers, all with the same configuration.

    `start` starts a preloader that speaks over a socket, and returns its process id.
    """

    def __init__(
        self, loop: Loop, start: Start, size: int, listeners: Mapping[int, Served], events: Events
    ) -> None:
        self.is_ready = False
        self.is_ending = False
        self.workers: list[Link] = []
        self._loop = loop
        self._size = size
        self._listeners = listeners
        self._events = events
        self._why = "the preloader has ended; its last words are in the log"
        ours, its = pair()
        with its:
            self.session = start(its)
        ours.setblocking(False)
        self._preloader: Channel | None = Channel(ours, FROM_PRELOADER)
        loop.watch(ours.fileno(), self._hear)

    def changed(self, key: int) -> None:
        """A listener has come or gone."""
        if not self.is_ending:
            for worker in self.workers:
                worker.change(key)

    def count(self) -> None:
        """Ask for new `counts` of the workers."""
        for worker in self.workers:
            worker.say("count")

    def look(self) -> None:
        """Ask the workers whether they are alive; who does not answer is replaced."""
        for worker in list(self.workers):
            worker.look()

    def end(self, word: str) -> None:
        """Let the workers `drain` or `stop`; there will be no new ones."""
        self.is_ending = True
        self._release_preloader()
        for worker in self.workers:
            worker.say(word)
        if not self.workers:
            self._events.generation_over(self)

    def _hear(self) -> None:
        if not self._preloader:
            return
        try:
            message = self._preloader.receive()
        except BlockingIOError:
            return
        except (ChannelError, OSError):
            self._release_preloader()
            if not self.is_ending:
                self._events.generation_failed(self, self._why)
            return
        if message.kind == "refused":
            self._why = str(message.fields["why"])
        else:
            for _ in range(self._size):
                self._fork()

    def _fork(self) -> None:
        if self.is_ending or not self._preloader:
            return
        ours, its = pair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # nobody else knows its process id
        with its:
            try:
                self._preloader.send("fork", [its.fileno()])
            except OSError as error:  # it is about to end, or does not read
                LOG.error("no worker can be forked: %s", error)  # noqa: TRY400 - the line says it all
                ours.close()
                return
        self.workers.append(
            Link(self._loop, ours, self._listeners, self._worker_is_ready, self._worker_ended)
        )

    def _worker_is_ready(self) -> None:
        if not self.is_ready and sum(worker.is_ready for worker in self.workers) == self._size:
            self.is_ready = True
            self._events.generation_ready(self)

    def _worker_ended(self, worker: "Link", why: str) -> None:
        self.workers.remove(worker)
        if self.is_ending:
            if not self.workers:
                self._events.generation_over(self)
            return
        LOG.error("a worker has ended (%s); another takes its place", why)
        if time.monotonic() - worker.began < _SOON:
            self._loop.after(_RESPAWN_PAUSE, self._fork)
        else:
            self._fork()

    def _release_preloader(self) -> None:
        if self._preloader:
            self._loop.forget(self._preloader.sock.fileno())
            self._preloader.close()
            self._preloader = None


class Link:
    """The keeper's end of the channel to one worker. It never waits, whatever the worker does."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        listeners: Mapping[int, Served],
        on_ready: Callable[[], None],
        on_end: Callable[["Link", str], None],
    ) -> None:
        sock.setblocking(False)
        self.began = time.monotonic()
        self.is_ready = False
        self.counts: dict[int, tuple[int, int]] = {}
        self._loop = loop
        self._channel = Channel(sock, FROM_WORKER)
        self._listeners = listeners
        self._on_ready = on_ready
        self._on_end = on_end
        self._known: set[int] = set()
        self._changed: dict[int, None] = dict.fromkeys(listeners)
        self._words: list[str] = []
        self._process: int | None = None  # a pidfd
        self._silent = 0
        loop.watch(sock.fileno(), self._hear)
        self._flush()

    def change(self, key: int) -> None:
        """Tell of a listener that has come or gone, when whoever asked for it has its answer."""
        if not self._changed:
            self._loop.after(0, self._flush)
        self._changed[key] = None

    def say(self, word: str) -> None:
        """A message without more to it."""
        if word not in self._words:
            self._words.append(word)
        self._flush()

    def look(self) -> None:
        """Ask whether it is alive; one that has left too many questions unanswered is killed."""
        if self._process is None:
            return
        if self._silent == _MOST_SILENT:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            self._end("hung, and was killed")
            return
        self._silent += 1
        self.say("alive")

    def _flush(self) -> None:
        if self._channel.sock.fileno() < 0:
            return
        try:
            while self._changed:
                key = next(iter(self._changed))
                self._tell(key)
                del self._changed[key]
            while self._words:
                self._channel.send(self._words[0])
                del self._words[0]
        except BlockingIOError:
            self._loop.wait_to_write(self._channel.sock.fileno(), self._flush)
        except OSError as error:
            LOG.debug("a worker does not listen: %s", error)  # `_hear` will know
        else:
            self._loop.wait_to_write(self._channel.sock.fileno(), None)

    def _tell(self, key: int) -> None:
        listener = self._listeners.get(key)
        if listener and key not in self._known:
            scope = [listener.scope.kind, listener.scope.id]
            self._channel.send(
                "add", [listener.sock.fileno()], key=key, scope=scope, on_link=listener.on_link
            )
            self._known.add(key)
        elif listener is None and key in self._known:
            self._channel.send("remove", key=key)
            self._known.discard(key)
            self.counts.pop(key, None)

    def _hear(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        except (ChannelError, OSError) as error:
            self._end(str(error))
            return
        self._silent = 0
        if message.kind == "counts":
            known = [
                (key, so_far, now) for key, so_far, now in message.fields["counts"] if key in self._known
            ]
            self.counts.update((key, (so_far, now)) for key, so_far, now in known)
        elif message.kind == "ready" and not self.is_ready:
            self.is_ready = True
            with contextlib.suppress(ProcessLookupError):  # it has ended again
                self._process = os.pidfd_open(message.sender)
            self._on_ready()

    def _end(self, why: str) -> None:
        """It is no more, or soon will be."""
        self._loop.forget(self._channel.sock.fileno())
        self._channel.close()
        if self._process is not None:
            os.close(self._process)
        self._on_end(self, why)


def end_orphans(sessions: Collection[int], identity: Identity) -> int:
    """SIGTERM for what a killed keeper left behind, since it keeps addresses busy; how many there were.

    `sessions` are those of its preloaders, whose workers are in them too.
    """
    found = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(int(entry.name))
            try:
                if _is_ours(entry, sessions, identity):
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    found += 1
            finally:
                os.close(descriptor)
    return found


def _is_ours(process: Path, sessions: Collection[int], identity: Identity) -> bool:
    session = int((process / "stat").read_text().rpartition(")")[2].split()[3])
    if session not in sessions:
        return False
    uids = next(line for line in (process / "status").read_text().splitlines() if line.startswith("Uid:"))
    command = (process / "cmdline").read_bytes()
    return uids.split()[1] == str(identity.uid) and PRELOADER.encode() in command.split(b"\0")
