"""The workers as the keeper sees them: generations, each of one preloader and the workers that it forked."""

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

#: The module that a preloader runs. The command line of each worker has this name too.
PRELOADER = "mdmw.node.preloader"

_FORK_PAUSE = 1.0  # seconds until the next fork, after a worker ended early or a fork failed
_EARLY = 5.0  # seconds; a worker that ends within this time ended early
#: Questions in a row that a worker may leave unanswered. The keeper counts questions and not seconds, so that
#: a pause of the whole machine counts as one.
_MOST_UNANSWERED = 5

#: Starts a program that speaks over the socket, and returns its process id; raises OSError.
Start = Callable[[socket.socket], int]


class ServedListener(Protocol):
    """What a worker must know of a listener."""

    @property
    def sock(self) -> socket.socket:
        """The listening socket."""

    @property
    def scope(self) -> Scope:
        """The network or router whose guests arrive at the socket."""

    @property
    def on_link(self) -> bool:
        """Whether guests reach the socket without a router."""


class GenerationEvents(Protocol):
    """The keeper, which is told what happens to a generation."""

    def generation_ready(self, generation: "Generation") -> None:
        """All workers of the generation serve; called once."""

    def generation_failed(self, generation: "Generation", why: str) -> None:
        """The preloader has ended before it was told to: no worker can be forked any more."""

    def generation_over(self, generation: "Generation") -> None:
        """The generation was told to end, and its last worker has ended."""


class Generation:
    """One preloader and its workers, all with the same configuration.

    `start` starts the preloader. `size` is the number of workers. `listeners` is the live mapping of the
    keeper. The constructor raises OSError when the preloader cannot be started.
    """

    def __init__(
        self,
        loop: Loop,
        start: Start,
        size: int,
        listeners: Mapping[int, ServedListener],
        events: GenerationEvents,
    ) -> None:
        self.is_ready = False
        self.is_ending = False
        self.workers: list[WorkerLink] = []
        self._loop = loop
        self._size = size
        self._listeners = listeners
        self._events = events
        self._why_failed = "the preloader has ended; the log has its last messages"
        self._preloader: Channel | None = None
        ours, its = pair()
        with its, contextlib.ExitStack() as on_error:
            on_error.callback(ours.close)
            ours.setblocking(False)
            loop.watch(ours.fileno(), self._hear)
            on_error.callback(loop.forget, ours.fileno())
            self.session = start(its)
            on_error.pop_all()
        self._preloader = Channel(ours, FROM_PRELOADER)

    def listener_changed(self, key: int) -> None:
        """Tell the workers that the listener with this key has come or gone."""
        if not self.is_ending:
            for worker in self.workers:
                worker.listener_changed(key)

    def count(self) -> None:
        """Ask each worker for its numbers of connections, which it answers into `counts`."""
        for worker in self.workers:
            worker.tell("count")

    def check(self) -> None:
        """Ask each worker whether it is alive. A worker that never answers is killed and replaced."""
        for worker in list(self.workers):
            worker.check()

    def end(self, word: str) -> None:
        """Tell the workers to `drain` or to `stop`, and fork no more."""
        self.is_ending = True
        self._release_preloader()
        for worker in self.workers:
            worker.tell(word)
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
                self._events.generation_failed(self, self._why_failed)
            return
        if message.kind == "refused":
            self._why_failed = str(message.fields["why"])
        else:
            for _ in range(self._size):
                self._fork()

    def _fork(self) -> None:
        if self.is_ending or not self._preloader:
            return
        try:
            worker = self._forked(self._preloader)
        except OSError as error:
            LOG.error("a worker cannot be forked; the next try is in a second: %s", error)  # noqa: TRY400 - the line says it all
            self._loop.after(_FORK_PAUSE, self._fork)
        else:
            self.workers.append(worker)

    def _forked(self, preloader: Channel) -> "WorkerLink":
        """Have a worker forked, and link it; raises OSError."""
        ours, its = pair()
        with its, contextlib.ExitStack() as on_error:
            on_error.callback(ours.close)
            ours.setsockopt(
                socket.SOL_SOCKET, socket.SO_PASSCRED, 1
            )  # the kernel tells the worker's process id
            preloader.send("fork", [its.fileno()])
            worker = WorkerLink(self._loop, ours, self._listeners, self._worker_ready, self._worker_ended)
            on_error.pop_all()
        return worker

    def _worker_ready(self) -> None:
        if not self.is_ready and sum(worker.is_ready for worker in self.workers) == self._size:
            self.is_ready = True
            self._events.generation_ready(self)

    def _worker_ended(self, worker: "WorkerLink", why: str) -> None:
        self.workers.remove(worker)
        if self.is_ending:
            if not self.workers:
                self._events.generation_over(self)
            return
        LOG.error("a worker has ended (%s); another takes its place", why)
        if time.monotonic() - worker.began < _EARLY:
            self._loop.after(_FORK_PAUSE, self._fork)
        else:
            self._fork()

    def _release_preloader(self) -> None:
        if self._preloader:
            self._loop.forget(self._preloader.sock.fileno())
            self._preloader.close()
            self._preloader = None


class WorkerLink:
    """The keeper's end of the channel to one worker. No call waits, whatever the worker does.

    `on_ready` is called once, when the worker serves. `on_end` is called once, with one line, when the worker
    has ended or has sent what it must not. The constructor raises OSError.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        listeners: Mapping[int, ServedListener],
        on_ready: Callable[[], None],
        on_end: Callable[["WorkerLink", str], None],
    ) -> None:
        sock.setblocking(False)
        self.began = time.monotonic()
        self.is_ready = False
        #: Key of a listener -> connections accepted so far, connections open now.
        self.counts: dict[int, tuple[int, int]] = {}
        self._loop = loop
        self._channel = Channel(sock, FROM_WORKER)
        self._listeners = listeners
        self._on_ready = on_ready
        self._on_end = on_end
        self._sent_keys: set[int] = set()
        self._changed_keys: dict[int, None] = dict.fromkeys(listeners)
        self._words: list[str] = []
        self._pidfd: int | None = None
        self._unanswered = 0
        loop.watch(sock.fileno(), self._hear)
        self._flush()

    def listener_changed(self, key: int) -> None:
        """Tell the worker about a listener. The loop first answers the caller that asked for the listener."""
        if not self._changed_keys:
            self._loop.after(0, self._flush)
        self._changed_keys[key] = None

    def tell(self, word: str) -> None:
        """Send a message that has no fields."""
        if word not in self._words:
            self._words.append(word)
        self._flush()

    def check(self) -> None:
        """Ask whether the worker is alive; kill a worker that left too many questions unanswered."""
        if self._pidfd is None:
            return
        if self._unanswered == _MOST_UNANSWERED:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._end("hung, and was killed")
            return
        self._unanswered += 1
        self.tell("alive")

    def _flush(self) -> None:
        if self._channel.sock.fileno() < 0:
            return
        try:
            while self._changed_keys:
                key = next(iter(self._changed_keys))
                self._send_listener(key)
                del self._changed_keys[key]
            while self._words:
                self._channel.send(self._words[0])
                del self._words[0]
        except BlockingIOError:
            self._loop.wait_to_write(self._channel.sock.fileno(), self._flush)
        except OSError as error:
            LOG.debug("a worker cannot be told: %s", error)  # `_hear` will notice that it has ended
        else:
            self._loop.wait_to_write(self._channel.sock.fileno(), None)

    def _send_listener(self, key: int) -> None:
        listener = self._listeners.get(key)
        if listener and key not in self._sent_keys:
            scope = [listener.scope.kind, listener.scope.id]
            self._channel.send(
                "add", [listener.sock.fileno()], key=key, scope=scope, on_link=listener.on_link
            )
            self._sent_keys.add(key)
        elif listener is None and key in self._sent_keys:
            self._channel.send("remove", key=key)
            self._sent_keys.discard(key)
            self.counts.pop(key, None)

    def _hear(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        except (ChannelError, OSError) as error:
            self._end(str(error))
            return
        self._unanswered = 0
        if message.kind == "counts":
            for key, accepted, now in message.fields["counts"]:
                if key in self._sent_keys:
                    self.counts[key] = (accepted, now)
        elif message.kind == "ready" and not self.is_ready:
            self.is_ready = True
            try:
                self._pidfd = os.pidfd_open(message.sender)
            except ProcessLookupError:
                pass  # the worker has ended again; the channel will say so
            except OSError as error:
                LOG.warning("worker %d: the keeper cannot kill it if it hangs: %s", message.sender, error)
            self._on_ready()

    def _end(self, why: str) -> None:
        self._loop.forget(self._channel.sock.fileno())
        self._channel.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self._on_end(self, why)


def end_orphans(sessions: Collection[int], identity: Identity) -> int:
    """Send SIGTERM to each process that a killed keeper left behind; the number of these processes.

    Such a process keeps addresses in use. `sessions` are the session ids of the preloaders of that keeper;
    the workers are in the same sessions. `identity` is that of the workers.
    """
    found = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(int(entry.name))
            try:
                if _is_orphan(entry, sessions, identity):
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    found += 1
            finally:
                os.close(descriptor)
    return found


def _is_orphan(process: Path, sessions: Collection[int], identity: Identity) -> bool:
    session = int((process / "stat").read_text().rpartition(")")[2].split()[3])
    if session not in sessions:
        return False
    uids = next(line for line in (process / "status").read_text().splitlines() if line.startswith("Uid:"))
    command = (process / "cmdline").read_bytes()
    return uids.split()[1] == str(identity.uid) and PRELOADER.encode() in command.split(b"\0")
