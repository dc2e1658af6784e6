"""A worker: serves guests on listening sockets that the keeper hands over.

A connection costs a greenlet. The HTTP is gunicorn's, so that guests meet the same limits
as with `gunicorn -k gevent` (doc/servers.rst). It has no privileges, and nothing that it
can say to the keeper asks for anything.
"""

import _socket
import errno
import logging
import runpy
import signal
import socket
import struct
import sys
from collections.abc import Iterable
from importlib import resources
from typing import Any

import gevent
import gevent.socket
from gevent.event import Event
from gevent.hub import get_hub
from gevent.pool import Group
from gunicorn.config import Config
from gunicorn.workers.base_async import AsyncWorker

from mdmw.boundary.peer import LISTENER_MAC, LISTENER_SCOPE
from mdmw.boundary.stage import App, StartResponse
from mdmw.errors import MdmwError
from mdmw.node.channel import MOST_COUNTS, TO_WORKER, Channel, ChannelError, to_scope
from mdmw.records import Environ, Scope
from mdmw.wire import one_line

LOG = logging.getLogger(__name__)

_TURN = 4  # connections accepted of one listener before the others have their turn
_MORE = 1.0  # seconds for which a body may be silent beyond those that a head has in all
_NEXT_REQUEST = 1.0  # seconds for a guest that keeps its connection, when the daemon is stopped
_PAUSE = 0.1  # seconds, when there was no descriptor left
_ABORTED = (errno.ECONNABORTED, errno.EPROTO, errno.EINTR)
_TCP_SAVED_SYN = 28  # linux/tcp.h
_SYN_BYTES = 256
_ETHERNET = struct.Struct("!6s6sH")
_IP_VERSIONS = {0x0800: 4, 0x86DD: 6}  # by EtherType


class Worker:
    """Serves `application` on what comes over `sock`, with at most `connections` at a time.

    `config` is gunicorn's.
    """

    def __init__(self, application: App, config: Config, sock: socket.socket, connections: int) -> None:
        self.application = application
        self.config = config
        self.is_ending = False
        self.patience: float = config.keepalive
        self._channel = Channel(sock, TO_WORKER)
        self._most = connections
        self._listeners: dict[int, Listener] = {}
        self._waiting: set[Listener] = set()  # for room
        self._conversations: set[Conversation] = set()
        self._greenlets = Group()
        self._end = Event()

    def run(self) -> None:
        """Until the keeper or SIGTERM ends it. When the keeper goes away, what is served is served on."""
        gevent.signal_handler(signal.SIGTERM, self._stop)
        gevent.spawn(self._obey)
        self._channel.send("ready")
        self._end.wait()
        for key in list(self._listeners):
            self._remove(key)
        self._greenlets.join(self.config.graceful_timeout)

    def has_room(self, listener: "Listener") -> bool:
        """Each listener may have as many connections as are free.

        So a few that are flooded share what there is, and always leave as much for the others.
        """
        return listener.open < self._most - len(self._conversations)

    def wait_for_room(self, listener: "Listener") -> None:
        """Have `listener` accept again when a connection has ended."""
        self._waiting.add(listener)

    def begin(self, listener: "Listener", descriptor: int, address: Any) -> None:
        """Serve a connection."""
        sock = gevent.socket.socket(listener.family, socket.SOCK_STREAM, fileno=descriptor)
        conversation = Conversation(self, listener, sock)
        self._conversations.add(conversation)
        listener.open += 1
        listener.accepted += 1
        self._greenlets.start(gevent.Greenlet(self._converse, conversation, address))

    def _converse(self, conversation: "Conversation", address: Any) -> None:
        try:
            conversation.run(address)
        finally:
            self._conversations.discard(conversation)
            conversation.listener.open -= 1
            for listener in [one for one in self._waiting if self.has_room(one)]:
                self._waiting.discard(listener)
                listener.accept_again()

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
            LOG.warning("no more word from the keeper: %s; what is served is served on", error)
            if not self._listeners:
                self._drain()

    def _add(self, descriptor: int, key: int, scope: list[Any], on_link: bool) -> None:
        self._listeners[key] = Listener(self, descriptor, to_scope(scope), on_link)

    def _remove(self, key: int) -> None:
        listener = self._listeners.pop(key, None)
        if listener:
            self._waiting.discard(listener)
            listener.close()

    def _count(self) -> None:
        counts = [[key, listener.accepted, listener.open] for key, listener in self._listeners.items()]
        for start in range(0, len(counts), MOST_COUNTS):
            self._channel.send("counts", counts=counts[start : start + MOST_COUNTS])

    def _drain(self) -> None:
        self.is_ending = True
        self._end.set()

    def _stop(self) -> None:
        """As `_drain`, but guests that do not begin another request soon are not waited for."""
        self._drain()
        self.patience = _NEXT_REQUEST
        gevent.spawn_later(_NEXT_REQUEST, self._hurry)

    def _hurry(self) -> None:
        for conversation in list(self._conversations):
            conversation.hurry()


class Listener:
    """A listening socket that several workers share: each takes a few connections at a time."""

    __slots__ = ("_sock", "_watcher", "_worker", "accepted", "address", "family", "on_link", "open", "scope")

    def __init__(self, worker: Worker, descriptor: int, scope: Scope, on_link: bool) -> None:
        self.scope = scope
        self.on_link = on_link
        self.accepted = 0
        self.open = 0
        self._worker = worker
        # Not one of gevent: it is asked in the hub, where nothing may wait.
        self._sock = _socket.socket(fileno=descriptor)
        self._sock.setblocking(False)
        self.family = self._sock.family
        self.address = self._sock.getsockname()
        self._watcher = get_hub().loop.io(descriptor, 1)
        self.accept_again()

    def getsockname(self) -> Any:
        """As gunicorn asks a listener."""
        return self.address

    def accept_again(self) -> None:
        """Accept whenever there is a connection."""
        if self._sock.fileno() >= 0:
            self._watcher.start(self._accept)

    def close(self) -> None:
        """Accept no more; connections that there are go on."""
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()

    def _accept(self) -> None:
        for _ in range(_TURN):
            if not self._worker.has_room(self):
                self._watcher.stop()
                self._worker.wait_for_room(self)
                return
            try:
                descriptor, address = self._sock._accept()  # type: ignore[attr-defined]  # accept() would make an object of each
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _ABORTED:
                    continue
                if error.errno == errno.EINVAL:  # the keeper has ended it, and is about to say so
                    self._watcher.stop()
                    return
                LOG.warning("%s: no connection can be accepted: %s", self.scope, error)
                self._watcher.stop()
                gevent.spawn_later(_PAUSE, self.accept_again)
                return
            self._worker.begin(self, descriptor, address)


class Conversation(AsyncWorker):  # type: ignore[misc]  # gunicorn has no types
    """One connection of a guest. To gunicorn it is a worker, which is where it has its handling of HTTP."""

    nr = 0
    max_requests = float("inf")

    def __init__(self, worker: Worker, listener: Listener, sock: Any) -> None:
        # Not the parent's, which would prepare for a process of its own.
        self.listener = listener
        self.cfg = worker.config
        self.log = _GUNICORN_LOG
        self._worker = worker
        self._sock = sock
        self._is_idle = True
        self._mac: str | None = None
        self._knows_mac = False

    def run(self, address: Any) -> None:
        """Serve the requests of this connection, and close it."""
        self._sock.settimeout(self.cfg.keepalive + _MORE)
        self.handle(self.listener, self._sock, address)

    @property
    def alive(self) -> bool:
        """False: the response says that it is the last one."""
        return not self._worker.is_ending

    def timeout_ctx(self) -> gevent.Timeout:
        """The time for a request's head, and to wait for it."""
        self._is_idle = True
        return gevent.Timeout(self._worker.patience, False)

    def wsgi(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The application, told what this server knows of the connection."""
        self._is_idle = False
        environ[LISTENER_SCOPE] = self.listener.scope
        environ[LISTENER_MAC] = self.mac
        return self._worker.application(environ, start_response)

    def hurry(self) -> None:
        """End now, if no request is being answered."""
        if self._is_idle:
            self._sock.shutdown(socket.SHUT_RD)

    def mac(self) -> str | None:
        """The MAC from which the connection was opened (R-8); None if the kernel cannot tell whose it is."""
        if not self._knows_mac:
            self._knows_mac = True  # the kernel forgets the packet when it has been read
            if self.listener.on_link:
                self._mac = _sender(self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, _SYN_BYTES))
        return self._mac


def _sender(packet: bytes) -> str | None:
    """The source of an Ethernet frame; None for what has no such header."""
    if len(packet) <= _ETHERNET.size:
        return None
    _, source, kind = _ETHERNET.unpack_from(packet)
    if packet[_ETHERNET.size] >> 4 != _IP_VERSIONS.get(kind):
        return None
    return source.hex(":") if any(source) else None


class _GunicornLog:
    """Where gunicorn's messages go. A mistake of a guest is INFO, as everywhere in mdmw."""

    def debug(self, *_: object) -> None:
        """Of no interest."""

    access = debug

    def info(self, text: str, *details: object) -> None:
        """What a guest did wrong; its own words are in it."""
        LOG.info("%s", one_line(text % details if details else text))

    warning = info

    def exception(self, text: str, *details: object) -> None:
        """A defect; or a guest that went away or took too long; or an upstream that broke off."""
        error = sys.exception()
        if isinstance(error, OSError):
            LOG.info("a connection broke off: %s", error)
        elif isinstance(error, MdmwError):
            LOG.warning("an answer broke off: %s", one_line(str(error)))
        else:
            LOG.error("%s", one_line(text % details if details else text), exc_info=error)


_GUNICORN_LOG = _GunicornLog()


def shipped_config() -> Config:
    """The limits of etc/gunicorn.conf.py."""
    config = Config()
    settings = runpy.run_path(str(resources.files("mdmw") / "etc" / "gunicorn.conf.py"))
    for name, value in settings.items():
        if name in config.settings and name != "on_starting":
            config.set(name, value)
    return config
