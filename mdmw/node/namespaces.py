"""Network namespaces: opens listening sockets in them, finds their names, and runs commands.

A socket stays in the namespace in which it was created. So one process can listen in all namespaces while it
runs in the namespace of the host.
"""

import contextlib
import ctypes
import fcntl
import logging
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdmw.errors import MdmwError

LOG = logging.getLogger(__name__)

RUN_NETNS = Path("/run/netns")
_OWN = "/proc/thread-self/ns/net"
_NO_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
_CLONE_NEWNET = 0x40000000
_SIOCGSKNS = 0x894C  # linux/sockios.h: the namespace of a socket
_TCP_SAVE_SYN = 27  # linux/tcp.h
_WITH_LINK_HEADER = 2
_IP_FREEBIND = 15  # linux/in.h
_IPV6_FREEBIND = 78  # linux/in6.h
_BACKLOG = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class CommandError(MdmwError):
    """A command such as `ip` or `nft` failed; the text is its error message."""


@dataclass(frozen=True, slots=True)
class Bind:
    """An address and port to listen at. A link-local address needs `device`, the only device to listen on."""

    address: str
    port: int
    device: str | None = None

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}" + (f" on {self.device}" if self.device else "")


def has_ipv6() -> bool:
    """Whether the kernel has IPv6, and IPv6 is not disabled for the host."""
    try:
        return _NO_IPV6.read_text().strip() == "0"
    except FileNotFoundError:
        return False


def run(*words: str, stdin: str = "") -> None:
    """Run a command to its end; raises `CommandError` with the error message of the command."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - no shell
    if done.returncode:
        raise CommandError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")


def open_namespace(name: str) -> int:
    """A descriptor of a named namespace, which the caller must close; raises OSError."""
    return os.open(RUN_NETNS / name, os.O_RDONLY | os.O_CLOEXEC)


def listen_in(descriptor: int, binds: Sequence[Bind]) -> list[socket.socket]:
    """TCP sockets that listen in the namespace of `descriptor`, one for each bind, or none; raises OSError.

    A socket may listen at an address that no device has yet. Accepted sockets have TCP_NODELAY, and keep the
    first packet, from which a worker reads the MAC of the guest.
    """
    sockets: list[socket.socket] = []
    with _inside(descriptor):
        try:
            for bind in binds:
                sockets.append(_open(bind))  # noqa: PERF401 - what was opened before an error is closed below
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
    return sockets


@contextlib.contextmanager
def _inside(descriptor: int) -> Iterator[None]:
    """Have this thread in another namespace during the block; raises OSError."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(descriptor)
        try:
            yield
        finally:
            _return(home)
    finally:
        os.close(home)


def _return(home: int) -> None:
    """Go back to the host's namespace. A process that must stay in a namespace of guests ends at once."""
    try:
        _enter(home)
    except OSError:
        LOG.critical("this process cannot leave the namespace of guests, so it ends")
        os.abort()


def namespace_inode(descriptor: int) -> int:
    """The inode that identifies the namespace of a descriptor; raises OSError."""
    return os.fstat(descriptor).st_ino


def names() -> frozenset[str]:
    """The names of all namespaces that have one."""
    try:
        return frozenset(path.name for path in RUN_NETNS.iterdir())
    except FileNotFoundError:
        return frozenset()


def enter(name: str) -> None:
    """Move this thread to a named namespace for the rest of its life; raises OSError."""
    descriptor = open_namespace(name)
    try:
        _enter(descriptor)
    finally:
        os.close(descriptor)


def named_inode(name: str) -> int | None:
    """The inode that identifies a named namespace; None when there is no such name."""
    try:
        return (RUN_NETNS / name).stat().st_ino
    except OSError:
        return None


def named_inodes() -> dict[int, str]:
    """Inode -> name, for all namespaces that have a name."""
    return {inode: name for name in names() if (inode := named_inode(name))}


class Names:
    """Finds names of namespaces by inode. With a thousand namespaces, known names are not read again."""

    def __init__(self) -> None:
        self._files: set[tuple[str, int]] = (
            set()
        )  # name, and the inode of the file on which the namespace is mounted
        self._by_inode: dict[int, str] = {}
        self._learn()

    def of(self, inode: int) -> str:
        """The name of the namespace with this inode; empty when it has no name."""
        if not self._has(inode):
            self._learn()
        if not self._has(inode):  # a name whose file was there before the namespace
            self._by_inode = named_inodes()
        return self._by_inode.get(inode, "")

    def _has(self, inode: int) -> bool:
        name = self._by_inode.get(inode)
        return name is not None and named_inode(name) == inode

    def _learn(self) -> None:
        there: set[tuple[str, int]] = set()
        with contextlib.suppress(FileNotFoundError), os.scandir(RUN_NETNS) as entries:
            there.update((entry.name, entry.inode()) for entry in entries)
        kept = {name for name, _ in there & self._files}
        self._by_inode = {inode: name for inode, name in self._by_inode.items() if name in kept}
        self._by_inode |= {found: name for name, _ in there - self._files if (found := named_inode(name))}
        self._files = there


def socket_inode(sock: socket.socket) -> int:
    """The inode that identifies the namespace of a socket; raises OSError."""
    descriptor = fcntl.ioctl(sock.fileno(), _SIOCGSKNS)
    try:
        return namespace_inode(descriptor)
    finally:
        os.close(descriptor)


def has_its_device(sock: socket.socket) -> bool:
    """Whether the device of a socket still exists. A new device of the same name is another device."""
    try:
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
    except OSError:
        return False
    return True


def _open(bind: Bind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in bind.address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, _WITH_LINK_HEADER)
        target: tuple[str, int] | tuple[str, int, int, int] = (bind.address, bind.port)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            target = (bind.address, bind.port, 0, socket.if_nametoindex(bind.device) if bind.device else 0)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if bind.device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bind.device.encode())
        sock.bind(target)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
