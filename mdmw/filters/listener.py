"""Which listener accepted a connection, as far as the WSGI server lets one ask.

Only what the kernel or the server itself says counts. SERVER_NAME does not: some
servers copy it from the guest's Host header.
"""

import socket
from collections.abc import Iterator

from mdmw.boundary.connection import connection
from mdmw.records import Environ

LISTENER = "mdmw.listener"
#: Of a server that knows it: the `Scope` of the guests that its listener is for.
LISTENER_SCOPE = "mdmw.listener_scope"
#: Of such a server: a function without arguments that tells the MAC of the peer, or None.
LISTENER_MAC = "mdmw.listener_mac"
_SO_NETNS_COOKIE = 71  # Linux 5.14, include/uapi/asm-generic/socket.h
_COOKIE_BYTES = 8


def listener_keys(environ: Environ) -> list[str]:
    """Names of the listener, the most certain first.

    What the server put into the environ; `netns:COOKIE`, `ADDRESS:PORT` and
    `port:PORT` of the connection's own end; on servers that hide the connection
    only `port:PORT`.
    """
    keys = []
    if LISTENER in environ:
        keys.append(environ[LISTENER])
    with connection(environ) as sock:
        if sock is not None:
            keys += _of_socket(sock)
        elif (port := str(environ.get("SERVER_PORT") or "")).isdecimal() and _tells_own_port(environ):
            keys.append(f"port:{port}")
    return keys


def netns_cookie(sock: socket.socket) -> int | None:
    """The kernel's name for the network namespace of a socket; None on an older Linux."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE_BYTES)
    except OSError:
        return None
    return int.from_bytes(raw, "little")


def _of_socket(sock: socket.socket) -> Iterator[str]:
    if sock.family == socket.AF_UNIX:
        yield f"unix:{sock.getsockname()}"
        return
    cookie = netns_cookie(sock)
    if cookie is not None:
        yield f"netns:{cookie}"
    host, port = sock.getsockname()[:2]
    host = host.removeprefix("::ffff:") if "." in host else host  # IPv4 on a dual-stack listener
    yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    yield f"port:{port}"


def _tells_own_port(environ: Environ) -> bool:
    """Granian fills SERVER_PORT from its own listener; of others nothing is known."""
    return str(environ.get("SERVER_SOFTWARE", "")).startswith("Granian")
