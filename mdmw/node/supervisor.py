"""What systemd is told, and what it keeps for the next keeper (sd_notify(3), FileDescriptorStoreMax=)."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mdmw.node import channel, namespaces
from mdmw.node.listeners import Listener

LOG = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds
_FIRST = 3  # descriptors from the store begin here
_COLON = "_"  # a name in the store has none


class Supervisor:
    """Messages to the supervisor; without one, to nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path

    def ready(self) -> None:
        """The daemon serves."""
        self._tell("READY=1")

    def main_process(self, pid: int) -> None:
        """Another process is the daemon now."""
        self._tell(f"MAINPID={pid}")

    def kept(self, environ: Mapping[str, str]) -> Iterator[Listener]:
        """The listeners that were held for this process; what is not what its name says is released."""
        if environ.get("LISTEN_PID") != str(os.getpid()):
            return
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        for descriptor, name in enumerate(names[: int(environ.get("LISTEN_FDS", "0"))], _FIRST):
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
            listener = _parsed(name, sock)
            if listener and matches(listener):
                yield listener
            else:
                sock.close()
                self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def keep(self, listener: Listener) -> None:
        """Hold a socket open while there is no keeper; one whose namespace has no name cannot be."""
        if listener.namespace:
            self._tell(f"FDSTORE=1\nFDPOLL=0\nFDNAME={_name(listener)}", [listener.sock.fileno()])

    def release(self, listener: Listener) -> None:
        """No longer."""
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={_name(listener)}")

    def _tell(self, text: str, descriptors: Sequence[int] = ()) -> None:
        """Guests do not wait for a supervisor that does not listen: it is told no more then."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect(self._address)
            try:
                socket.send_fds(sock, [text.encode()], list(descriptors))
            except TimeoutError:
                LOG.warning("systemd takes no messages; a restart may lose connections")
                self._address = ""


def matches(listener: Listener) -> bool:
    """Whether the socket listens where it should, in the namespace that has the name now."""
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
    bind = listener.bind
    words = (
        *(listener.namespace, bind.address, str(bind.port), bind.device or ""),
        *(listener.scope.kind, listener.scope.id, listener.owner),
    )
    return ",".join(words).replace(":", _COLON)


def _parsed(name: str, sock: socket.socket) -> Listener | None:
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
