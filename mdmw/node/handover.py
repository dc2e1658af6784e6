"""What outlives a keeper: its sockets go to the next keeper, so that no guest notices.

A keeper that runs gives all that it holds to a new one over the control socket, and goes on until the new one
is ready. For the time in which no keeper runs, systemd holds the sockets (sd_notify(3)); the unit needs
FileDescriptorStoreMax=.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdmw.node import channel, namespaces
from mdmw.node.attachments import Attachment, Attachments
from mdmw.node.channel import MOST_PLACES, Message, to_bind, to_scope
from mdmw.node.control import ControlError, ControlSession, KeeperAbsent, KeeperClient, called
from mdmw.node.listening import Listener, Listeners, PlannedListeners

LOG = logging.getLogger(__name__)

_SYSTEMD_PATIENCE = 1.0  # seconds
_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_COLON = "_"  # stands for the colon, which a name in systemd's store must not have


class Handover:
    """What this keeper takes from the keeper before it, and gives to the keeper after it.

    `path` is that of the control socket.
    """

    def __init__(
        self, path: Path, listeners: Listeners, attachments: Attachments, planned: PlannedListeners
    ) -> None:
        self._path = path
        self._listeners = listeners
        self._attachments = attachments
        self._planned = planned
        self._successor: ControlSession | None = None
        self._predecessor: KeeperClient | None = None
        self._connection = contextlib.ExitStack()

    @property
    def has_successor(self) -> bool:
        """Whether a new keeper has taken a copy of all that this one holds."""
        return self._successor is not None

    @property
    def has_predecessor(self) -> bool:
        """Whether an old keeper still serves, because this one is not ready yet."""
        return self._predecessor is not None

    # --- the new keeper -----------------------------------------------------------------

    def take_over(self) -> bool:
        """Take what the keeper that runs holds; False when there is none. Raises `ControlError`."""
        try:
            client = self._connection.enter_context(called(self._path))
        except KeeperAbsent:
            return False
        try:
            for message in client.ask("take-over"):
                self._take(message)
        except OSError as error:
            raise ControlError(f"the listeners of the old keeper cannot be taken over: {error}") from None
        self._predecessor = client
        LOG.info("taken over from another keeper: %d listeners", len(self._listeners))
        return True

    def complete(self) -> bool:
        """Tell the old keeper that this one serves; False when the old keeper has ended without a word."""
        if self._predecessor is None:
            return True
        try:
            self._predecessor.tell("taken-over")
        except ControlError as error:
            LOG.warning("the old keeper has ended before this one told it to: %s", error)
            is_told = False
        else:
            is_told = True
        self._connection.close()
        self._predecessor = None
        return is_told

    def _take(self, message: Message) -> None:
        if message.kind == "socket":
            self._listeners.adopt(_listener(message.descriptors[0], **message.fields))
        elif message.kind == "attached":
            self._attachments.adopt(Attachment(**message.fields, pidfd=message.descriptors[0]))
        else:
            endpoints = {
                (namespace, to_bind(bind)): to_scope(scope)
                for namespace, bind, scope in message.fields["listeners"]
            }
            self._planned.endpoints = {**(self._planned.endpoints or {}), **endpoints}

    # --- the old keeper -----------------------------------------------------------------

    def give(self, session: ControlSession) -> None:
        """Send all that a new keeper needs. This keeper goes on until the new one is ready."""
        self._successor = session
        for listener in self._listeners:
            session.answer("socket", [listener.sock.fileno()], **described(listener))
        for attachment in self._attachments.by_name.values():
            session.answer("attached", [attachment.pidfd], name=attachment.name, pid=attachment.pid)
        if self._planned.endpoints is not None:
            endpoints = [
                [namespace, [bind.address, bind.port, bind.device], [scope.kind, scope.id]]
                for (namespace, bind), scope in self._planned.endpoints.items()
            ]
            for start in range(0, len(endpoints) + 1, MOST_PLACES):
                session.answer("want", listeners=endpoints[start : start + MOST_PLACES], more=True)
        session.answer("done")

    def check_successor(self, session: ControlSession) -> None:
        """Raise `ControlError` unless this caller has taken what this keeper holds."""
        if session is not self._successor:
            raise ControlError("nothing was handed over to this caller")

    def session_ended(self, session: ControlSession) -> None:
        """A caller has closed its end: a new keeper that does so before it is ready has failed."""
        if session is self._successor:
            LOG.warning("the new keeper has ended before it could take over")
            self._successor = None


def described(listener: Listener) -> dict[str, Any]:
    """The fields of a listener in a message of the control socket."""
    bind, scope = listener.bind, listener.scope
    return {
        "namespace": listener.namespace,
        "bind": [bind.address, bind.port, bind.device],
        "scope": [scope.kind, scope.id],
        "owner": listener.owner,
        "since": listener.since,
    }


def _listener(
    descriptor: int, namespace: str, bind: list[Any], scope: list[Any], owner: str, since: float
) -> Listener:
    """The listener that `described` has described; raises OSError, and closes the descriptor then."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise
    try:
        inode = namespaces.socket_inode(sock)
    except OSError:
        sock.close()
        raise
    return Listener(namespace, inode, to_bind(bind), to_scope(scope), owner, sock, since)


# --- systemd ----------------------------------------------------------------------------


class Supervisor:
    """Sends messages to systemd. Without NOTIFY_SOCKET in `environ` no message is sent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path

    def ready(self) -> None:
        """Say that the daemon serves."""
        self._send("READY=1")

    def main_process(self, pid: int) -> None:
        """Say that the process `pid` is the daemon now."""
        self._send(f"MAINPID={pid}")

    def kept(self, environ: Mapping[str, str]) -> Iterator[Listener]:
        """The listeners that systemd held for this process.

        A socket that does not listen where its name says is closed, and systemd is told to close it too.
        """
        if environ.get("LISTEN_PID") != str(os.getpid()):
            return
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        for descriptor, name in enumerate(names[: int(environ.get("LISTEN_FDS", "0"))], _FIRST_DESCRIPTOR):
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
            listener = _parsed(name, sock)
            if listener and _listens_as_named(listener):
                yield listener
            else:
                sock.close()
                self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def keep(self, listener: Listener) -> None:
        """Have systemd hold a socket while no keeper runs. Nothing is held for a namespace without a name."""
        if listener.namespace:
            self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={_name(listener)}", [listener.sock.fileno()])

    def release(self, listener: Listener) -> None:
        """Have systemd close a socket that it holds."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={_name(listener)}")

    def _send(self, text: str, descriptors: Sequence[int] = ()) -> None:
        """Send a message. After one timeout no more are sent, so that guests do not wait for systemd."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_SYSTEMD_PATIENCE)
            sock.connect(self._address)
            try:
                socket.send_fds(sock, [text.encode()], list(descriptors))
            except TimeoutError:
                LOG.warning("systemd takes no messages; a restart of mdmw-node may lose connections")
                self._address = ""


def _listens_as_named(listener: Listener) -> bool:
    """Whether the socket listens at its bind, in the namespace that has the name now."""
    sock, bind = listener.sock, listener.bind
    try:
        return (
            bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            and sock.getsockname()[:2] == (bind.address, bind.port)
            and namespaces.socket_inode(sock) == listener.inode
            and not listener.why_stale()
        )
    except OSError:
        return False


def _name(listener: Listener) -> str:
    """The name of a socket in the store, from which `_parsed` makes the listener again."""
    bind = listener.bind
    words = (
        *(listener.namespace, bind.address, str(bind.port), bind.device or ""),
        *(listener.scope.kind, listener.scope.id, listener.owner),
    )
    return ",".join(words).replace(":", _COLON)


def _parsed(name: str, sock: socket.socket) -> Listener | None:
    """The listener with this name in the store; None when the name is not one of ours."""
    words = name.split(",")
    if len(words) != 7:
        return None
    namespace, address, port, device, kind, scope_id, owner = words
    address = address.replace(_COLON, ":")
    bind: list[Any] = [address, int(port) if port.isdecimal() else 0, device or None]
    inode = namespaces.named_inode(namespace) if channel.name(namespace) else None
    if inode is None or not (channel.bind(bind) and channel.scope([kind, scope_id]) and channel.name(owner)):
        return None
    return Listener(namespace, inode, to_bind(bind), to_scope([kind, scope_id]), owner, sock)
