"""A private network namespace, so that guests have addresses of their own and every port is free."""

import contextlib
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """Sockets opened here belong to it, whatever thread uses them afterwards."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._fd = os.open(f"/run/netns/{name}", os.O_RDONLY)

    @property
    def command(self) -> list[str]:
        """What to put before a command that is to run inside."""
        return ["ip", "netns", "exec", self.name]

    def socket(self, family: int) -> socket.socket:
        with self._inside():
            return socket.socket(family, socket.SOCK_STREAM)

    def close(self) -> None:
        os.close(self._fd)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """Of this thread only, and never across a wait."""
        outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _setns(self._fd)
            try:
                yield
            finally:
                _setns(outside)
        finally:
            os.close(outside)


@contextlib.contextmanager
def temporary(addresses: list[str]) -> Iterator[Namespace]:
    """A namespace with these addresses on its loopback device; gone afterwards."""
    name = f"mdmw-test-{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        for address in addresses:
            _ip("-n", name, "address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
        namespace = Namespace(name)
        try:
            yield namespace
        finally:
            namespace.close()
    finally:
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
