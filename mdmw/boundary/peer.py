"""The connection that a request came over: its socket, its listener, and the MAC of its peer.

How much is known depends on the WSGI server.
"""

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from mdmw import netlink
from mdmw.records import Environ

LISTENER = "mdmw.listener"
#: Environ key of a server that knows whose guests arrive at the listener: their `Scope`.
LISTENER_SCOPE = "mdmw.listener_scope"
#: Environ key of such a server: a function without arguments that returns the MAC of the peer, or None.
LISTENER_MAC = "mdmw.listener_mac"
_SO_NETNS_COOKIE = 71  # Linux 5.14, include/uapi/asm-generic/socket.h
_COOKIE_BYTES = 8
# linux/rtnetlink.h, linux/neighbour.h
_RTM_GETNEIGH = 30
_NDA_DST = 1
_NDA_LLADDR = 2
_NEIGHBOUR = struct.Struct("=BBHiHBB")  # family, padding, padding, device, state, flags, type
_TIMEOUT = 1.0  # seconds
_MAC_BYTES = 6


@contextlib.contextmanager
def connection(environ: Environ) -> Iterator[Any]:
    """The accepted socket, for questions only; None when the server does not give access to the socket."""
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        yield sock
    elif "waitress.client_disconnected" in environ:
        yield environ["waitress.client_disconnected"].__self__.socket
    elif "uwsgi.version" in environ:
        import uwsgi  # this module exists only inside a uWSGI worker

        with socket.socket(fileno=os.dup(uwsgi.connection_fd())) as duplicate:
            yield duplicate
    else:
        yield None


def listener_keys(environ: Environ) -> list[str]:
    """The names of the listener that accepted the request, the most certain name first.

    First the name that the server put into the environ, then `netns:COOKIE`, `ADDRESS:PORT` and `port:PORT`
    of the local end of the connection. On a server that does not give access to the socket, only `port:PORT`.
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
    """The number by which the kernel names the network namespace of a socket; None before Linux 5.14."""
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
    """Whether SERVER_PORT is the port of the listener: known of granian only."""
    return str(environ.get("SERVER_SOFTWARE", "")).startswith("Granian")


def neighbour_mac(address: str) -> str | None:
    """The MAC of a neighbour, as the kernel has learnt it from packets; None when it is not known.

    Also None when several devices have neighbours with this address and different MACs. Raises OSError.
    """
    parsed = ipaddress.ip_address(address)
    family = socket.AF_INET6 if parsed.version == 6 else socket.AF_INET
    with netlink.connect(socket.NETLINK_ROUTE, _TIMEOUT) as sock:
        macs = {_mac_on(sock, family, device, parsed.packed) for device, _ in socket.if_nameindex()} - {None}
    return macs.pop() if len(macs) == 1 else None


def _mac_on(sock: socket.socket, family: int, device: int, address: bytes) -> str | None:
    """The MAC of a neighbour on one device. One question costs the same however many neighbours there are."""
    body = _NEIGHBOUR.pack(family, 0, 0, device, 0, 0, 0) + netlink.attribute(_NDA_DST, address)
    try:
        answer = netlink.ask_over(sock, _RTM_GETNEIGH, body)
    except TimeoutError:
        raise
    except OSError:  # the device has no such neighbour, or is gone
        return None
    mac = netlink.attributes(answer, _NEIGHBOUR.size).get(_NDA_LLADDR, b"")
    return mac.hex(":") if len(mac) == _MAC_BYTES else None
