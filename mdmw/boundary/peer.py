"""The connection that a request came over, as far as the WSGI server lets one ask."""

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from mdmw.records import Environ


@contextlib.contextmanager
def connection(environ: Environ) -> Iterator[Any]:
    """The accepted socket, only to be asked about itself; None where the server hides it."""
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        yield sock
    elif "waitress.client_disconnected" in environ:
        yield environ["waitress.client_disconnected"].__self__.socket
    elif "uwsgi.version" in environ:
        import uwsgi  # only exists inside a uWSGI worker

        with socket.socket(fileno=os.dup(uwsgi.connection_fd())) as duplicate:
            yield duplicate
    else:
        yield None


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


# linux/rtnetlink.h, linux/neighbour.h
_RTM_GETNEIGH = 30
_RTM_NEWNEIGH = 28
_NLM_F_REQUEST = 1
_NDA_DST = 1
_NDA_LLADDR = 2
_MESSAGE = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=BBHiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER = 4096
_TIMEOUT = 1.0
_MAC_BYTES = 6


def neighbour_mac(address: str) -> str | None:
    """The MAC of a neighbour, from whose packets the kernel learnt it; None if it is not known.

    None too when several devices know the address with different MACs. Raises OSError.
    """
    wanted = ipaddress.ip_address(address)
    family = socket.AF_INET6 if wanted.version == 6 else socket.AF_INET
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT)
        sock.bind((0, 0))
        macs = {_ask(sock, family, device, wanted.packed) for device, _ in socket.if_nameindex()} - {None}
    return macs.pop() if len(macs) == 1 else None


def _ask(sock: socket.socket, family: int, device: int, address: bytes) -> str | None:
    """One entry of one device; asking for it costs the same however many neighbours there are."""
    body = _NEIGHBOUR.pack(family, 0, 0, device, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address), _NDA_DST) + address
    sock.send(_MESSAGE.pack(_MESSAGE.size + len(body), _RTM_GETNEIGH, _NLM_F_REQUEST, 1, 0) + body)
    data = sock.recv(_BUFFER)
    length, kind, *_ = _MESSAGE.unpack_from(data)
    if kind != _RTM_NEWNEIGH:  # an error: there is none
        return None
    mac = _attributes(data[_MESSAGE.size + _NEIGHBOUR.size : length]).get(_NDA_LLADDR, b"")
    return mac.hex(":") if len(mac) == _MAC_BYTES else None


def _attributes(data: bytes) -> dict[int, bytes]:
    attributes = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        attributes[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return attributes


def _aligned(length: int) -> int:
    return (length + 3) & ~3
