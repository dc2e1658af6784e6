"""What the keeper tells systemd, and the sockets that systemd holds for the next keeper.

The protocol is that of sd_notify(3). The unit needs FileDescriptorStoreMax=.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mdmw.node import channel, namespaces
from mdmw.node.listening import Listener

LOG = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds
_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_COLON = "_"  # stands for the colon, which a name in the store must not have


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
            sock.settimeout(_PATIENCE)
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
    return Listener(namespace, inode, channel.to_bind(bind), channel.to_scope([kind, scope_id]), owner, sock)
