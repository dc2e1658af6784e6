"""Network namespaces: making them, and opening sockets inside without moving there.

A socket stays in the namespace in which it was created, so one process can
listen in all of them while it lives outside (design 1).
"""

import ctypes
import os
import socket
import subprocess
import threading
from pathlib import Path

from mdmw.errors import MdmwError

_CLONE_NEWNET = 0x40000000
_RUN_NETNS = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


class CommandError(MdmwError):
    """`ip` or `nft` said no; the text is what it said."""


def run(*words: str, stdin: str = "") -> None:
    """Run a command to its end; raises `CommandError` with its own words."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - no shell
    if done.returncode:
        raise CommandError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")


def listen(namespace: str, address: str, port: int, backlog: int = 4096) -> socket.socket:
    """A TCP socket listening at `address` in a named namespace; raises OSError."""
    result: list[socket.socket | OSError] = []
    # setns is per thread: a short-lived one moves, opens and ends.
    thread = threading.Thread(target=lambda: result.append(_listen(namespace, address, port, backlog)))
    thread.start()
    thread.join()
    opened = result[0]
    if isinstance(opened, OSError):
        raise opened
    return opened


def _listen(namespace: str, address: str, port: int, backlog: int) -> socket.socket | OSError:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        _enter(namespace)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind((address, port))
            sock.listen(backlog)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        return error
    return sock


def _enter(namespace: str) -> None:
    descriptor = os.open(_RUN_NETNS / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), namespace)
    finally:
        os.close(descriptor)
