"""A worker: serves guests on listening sockets that the keeper sends.

A worker has no privileges, and no message that it can send asks the keeper for anything. Each connection has
a greenlet, which runs `mdmw.node.conversation`.
"""

import _socket
import errno
import logging
import runpy
import signal
import socket
from importlib import resources
from typing import Any

import gevent
import gevent.socket
from gevent.event import Event
from gevent.hub import get_hub
from gevent.pool import Group
from gunicorn.config import Config

from mdmw.boundary.peer import LISTENER_SCOPE
from mdmw.boundary.stage import App
from mdmw.node.channel import MOST_COUNTS, TO_WORKER, Channel, ChannelError, to_scope
from mdmw.node.conversation import Conversation, Service
from mdmw.records import Scope

LOG = logging.getLogger(__name__)

_TURN = 4  # connections that a listener accepts before the next listener has its turn
_NEXT_REQUEST = 1.0  # seconds that an idle connection stays open when the daemon is stopped
_PAUSE = 0.1  # seconds until the next accept, after an error such as "no descriptor left"
_ABORTED = (errno.ECONNABORTED, errno.EPROTO, errno.EINTR)


class Worker:
    """Serves `application` on the listening sockets that arrive over `sock`.

    `config` is gunicorn's. `connections` is the largest number of open connections.
    """

    def __init__(self, application: App, config: Config, sock: socket.socket, connections: int) -> None:
        self._service = Service(application, config, patience=config.keepalive)
        self._channel = Channel(sock, TO_WORKER)
        self._most = connections
        self._listeners: dict[int, SharedListener] = {}
        self._without_room: set[SharedListener] = set()
        self._conversations: set[Conversation] = set()
        self._greenlets = Group()
        self._end = Event()

    def run(self) -> None:
        """Serve until the keeper or SIGTERM ends the worker. Without a keeper, the worker goes on."""
        gevent.signal_handler(signal.SIGTERM, self._stop)
        gevent.spawn(self._obey)
        self._channel.send("ready")
        self._end.wait()
        for key in list(self._listeners):
            self._remove(key)
        self._greenlets.join(self._service.config.graceful_timeout)

    def has_room(self, listener: "SharedListener") -> bool:
        """Whether a listener may accept a connection: it may have as many as are free then.

        So listeners that are flooded always leave room for the others.
        """
        return listener.open < self._most - len(self._conversations)

    def wait_for_room(self, listener: "SharedListener") -> None:
        """Have `listener` accept again when a connection has ended and there is room."""
        self._without_room.add(listener)

    def begin(self, listener: "SharedListener", descriptor: int, address: Any) -> Conversation:
        """The conversation on a connection that `listener` has accepted. It counts as open now."""
        sock = gevent.socket.socket(
            listener.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=descriptor
        )
        conversation = Conversation(self._service, listener.environ, listener.on_link, sock, address)
        self._conversations.add(conversation)
        listener.open += 1
        listener.accepted += 1
        return conversation

    def serve(self, listener: "SharedListener", conversation: Conversation) -> None:
        """Have a greenlet run the conversation."""
        self._greenlets.start(gevent.Greenlet(self._serve, listener, conversation))

    def _serve(self, listener: "SharedListener", conversation: Conversation | None) -> None:
        """Serve a connection, and then connections that wait: a new greenlet for each would cost more."""
        for _ in range(_TURN):
            if conversation:
                self._converse(listener, conversation)
                conversation = listener.next()
        if conversation:
            self.serve(listener, conversation)

    def _converse(self, listener: "SharedListener", conversation: Conversation) -> None:
        try:
            conversation.run()
        finally:
            self._conversations.discard(conversation)
            listener.open -= 1
            for waiting in [one for one in self._without_room if self.has_room(one)]:
                self._without_room.discard(waiting)
                waiting.accept_again()

    def _obey(self) -> None:
        try:
            while True:
                message = self._channel.receive()
                if message.kind == "add":
                    self._add(message.descriptors[0], **message.fields)
                elif message.kind == "remove":
                    self._remove(message.fields["key"])
                elif message.kind == "count":
                    self._count()
                elif message.kind == "alive":
                    self._channel.send("alive")
                elif message.kind == "drain":
                    self._drain()
                else:
                    self._stop()
        except (ChannelError, OSError) as error:
            LOG.warning("the connection to the keeper is lost: %s; this worker serves on", error)
            if not self._listeners:
                self._drain()

    def _add(self, descriptor: int, key: int, scope: list[Any], on_link: bool) -> None:
        self._listeners[key] = SharedListener(self, descriptor, to_scope(scope), on_link)

    def _remove(self, key: int) -> None:
        listener = self._listeners.pop(key, None)
        if listener:
            self._without_room.discard(listener)
            listener.close()

    def _count(self) -> None:
        counts = [[key, listener.accepted, listener.open] for key, listener in self._listeners.items()]
        for start in range(0, len(counts), MOST_COUNTS):
            self._channel.send("counts", counts=counts[start : start + MOST_COUNTS])

    def _drain(self) -> None:
        self._service.is_ending = True
        self._end.set()

    def _stop(self) -> None:
        """End as with `_drain`, but close idle connections after a second."""
        self._drain()
        self._service.patience = _NEXT_REQUEST
        gevent.spawn_later(_NEXT_REQUEST, self._hurry)

    def _hurry(self) -> None:
        for conversation in list(self._conversations):
            conversation.hurry()


class SharedListener:
    """A listening socket that all workers share: each accepts a few connections at a time."""

    __slots__ = ("_scope", "_sock", "_watcher", "_worker", "accepted", "environ", "family", "on_link", "open")

    def __init__(self, worker: Worker, descriptor: int, scope: Scope, on_link: bool) -> None:
        self._scope = scope
        self.on_link = on_link
        self.accepted = 0
        self.open = 0
        self._worker = worker
        # Not a socket of gevent: it is used in the hub, where no call may wait.
        self._sock = _socket.socket(fileno=descriptor)
        self._sock.setblocking(False)
        self.family = self._sock.family
        host, port = self._sock.getsockname()[:2]
        self.environ = {"SERVER_NAME": host, "SERVER_PORT": str(port), LISTENER_SCOPE: scope}
        self._watcher = get_hub().loop.io(descriptor, 1)
        self.accept_again()

    def accept_again(self) -> None:
        """Accept connections whenever there are some."""
        if self._sock.fileno() >= 0:
            self._watcher.start(self._accept)

    def close(self) -> None:
        """Accept no more connections. Open connections stay open."""
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()

    def next(self) -> Conversation | None:
        """The conversation on the next connection, if one waits and the worker has room."""
        while self._sock.fileno() >= 0:
            if not self._worker.has_room(self):
                self._watcher.stop()
                self._worker.wait_for_room(self)
                return None
            try:
                descriptor, address = self._sock._accept()  # type: ignore[attr-defined]  # accept() would make a socket object
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _ABORTED:
                    continue
                self._watcher.stop()
                if error.errno != errno.EINVAL:  # EINVAL: the keeper has shut it down, and will say so
                    LOG.warning("%s: a connection cannot be accepted: %s", self._scope, error)
                    gevent.spawn_later(_PAUSE, self.accept_again)
                return None
            return self._worker.begin(self, descriptor, address)
        return None

    def _accept(self) -> None:
        for _ in range(_TURN):
            conversation = self.next()
            if conversation is None:
                return
            self._worker.serve(self, conversation)


def shipped_config() -> Config:
    """gunicorn's configuration with the limits of etc/gunicorn.conf.py."""
    config = Config()
    settings = runpy.run_path(str(resources.files("mdmw") / "etc" / "gunicorn.conf.py"))
    for name, value in settings.items():
        if name in config.settings and name != "on_starting":
            config.set(name, value)
    # gunicorn reads a dozen settings for each request. As plain attributes they are found five times faster.
    vars(config).update({name: setting.get() for name, setting in config.settings.items()})
    return config
