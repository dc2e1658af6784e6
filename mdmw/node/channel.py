"""Messages between the processes of mdmw-node: a JSON object each, and descriptors, strictly checked.

The sockets are of the type SOCK_SEQPACKET, so that a message arrives as a whole or not at all. A message that
is not exactly as the receiver's table of shapes says raises `ChannelError`, and its descriptors are closed.
"""

import array
import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdmw.errors import MdmwError
from mdmw.identity import CREDENTIALS_BYTES, parse_credentials
from mdmw.node.namespaces import Bind
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6, Scope, is_uuid

Check = Callable[[Any], bool]

_LONGEST = 64 * 1024  # bytes of a message
#: Room for more descriptors than any message has, and for the credentials of the sender.
_ROOM = socket.CMSG_SPACE(4 * array.array("i").itemsize) + socket.CMSG_SPACE(CREDENTIALS_BYTES)
_BUFFER = 4 * 1024 * 1024  # bytes
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_ADDRESSES = (METADATA_ADDRESS, METADATA_ADDRESS_V6, "::", "0.0.0.0")  # noqa: S104 - the addresses of listeners
_LAST_PORT = 65535


class ChannelError(MdmwError):
    """A message that is not allowed on this channel."""


class Ended(ChannelError):
    """The other end has closed."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a kind of message must have: a check for each field, and the number of descriptors."""

    fields: Mapping[str, Check] = field(default_factory=dict)
    descriptors: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message. The receiver must close the `descriptors`.

    `sender` is the process id of the sender, from the kernel, if the receiver's socket has SO_PASSCRED; else
    0.
    """

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()
    sender: int = 0


class Channel:
    """One end of a connection. `accepts` has the kinds of messages that may arrive.

    Whether calls wait depends on the socket.
    """

    def __init__(self, sock: socket.socket, accepts: Mapping[str, Shape]) -> None:
        self.sock = sock
        self._accepts = accepts

    def send(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send a message; raises OSError, BlockingIOError when the other end does not read."""
        text = json.dumps({"kind": kind, **fields}, separators=(",", ":")).encode()
        if descriptors:
            socket.send_fds(self.sock, [text], list(descriptors))
        else:
            self.sock.send(text)

    def receive(self) -> Message:
        """The next message; raises `ChannelError`, `Ended` and OSError."""
        # Not socket.recv_fds, which loses MSG_CMSG_CLOEXEC: later programs would inherit the descriptors.
        data, ancillary, flags, _ = self.sock.recvmsg(_LONGEST, _ROOM, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        sender = 0
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(raw[: len(raw) - len(raw) % descriptors.itemsize])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                sender = parse_credentials(raw).pid
        try:
            return self._checked(data, tuple(descriptors), flags, sender)
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def close(self) -> None:
        """Close this end; safe to call twice."""
        self.sock.close()

    def _checked(self, data: bytes, descriptors: tuple[int, ...], flags: int, sender: int) -> Message:
        if not data and not descriptors:
            raise Ended("the other end has closed")
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ChannelError("a message that is too long, or has too many descriptors")
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            raise ChannelError("a message that is not JSON") from None
        kind = fields.pop("kind", None) if isinstance(fields, dict) else None
        shape = self._accepts.get(kind) if isinstance(kind, str) else None
        if shape is None:
            raise ChannelError(f"a message of kind {str(kind)[:40]!r}")
        if fields.keys() != shape.fields.keys():
            raise ChannelError(
                f"a message {kind!r} with other fields than {', '.join(shape.fields) or 'none'}"
            )
        for name, check in shape.fields.items():
            if not check(fields[name]):
                raise ChannelError(f"a message {kind!r} with a wrong {name}")
        if len(descriptors) != shape.descriptors:
            raise ChannelError(f"a message {kind!r} with {len(descriptors)} descriptors")
        return Message(str(kind), fields, descriptors, sender)


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new connection, for `Channel`; raises OSError."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        enlarge(end)
    return ends


def enlarge(sock: socket.socket) -> None:
    """Give a socket room for a thousand messages, if this process is privileged."""
    with contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)


# --- checks -----------------------------------------------------------------------------


def natural(value: Any) -> bool:
    """Whether this is a whole number from 0 to 2**53."""
    return type(value) is int and 0 <= value < 2**53


def flag(value: Any) -> bool:
    """Whether this is true or false."""
    return type(value) is bool


def seconds(value: Any) -> bool:
    """Whether this is a time, in seconds since 1970."""
    return type(value) in (int, float) and 0 <= value < 2**40


def line(value: Any) -> bool:
    """Whether this is a text of one line."""
    return isinstance(value, str) and len(value) < 2000 and value.isprintable()


def as_line(text: str) -> str:
    """Make any text pass the check `line`."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:1999]


def name(value: Any) -> bool:
    """Whether this can be the name of a namespace or an attachment: a part of a path, but not `..`."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def scope(value: Any) -> bool:
    """Whether this is `[kind, UUID]` of a network or router."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and value[0] in ("network", "router")
        and isinstance(value[1], str)
        and is_uuid(value[1])
    )


def bind(value: Any) -> bool:
    """Whether this is `[address, port, device or null]`, with an address where metadata is served."""
    if not (isinstance(value, list) and len(value) == 3):
        return False
    address, port, device = value
    return (
        address in _ADDRESSES
        and type(port) is int
        and 0 < port <= _LAST_PORT
        and (device is None or (isinstance(device, str) and _DEVICE.fullmatch(device) is not None))
        and (device is not None or address != METADATA_ADDRESS_V6)
    )


def to_scope(value: list[Any]) -> Scope:
    """The record of a value that passed the check `scope`."""
    return Scope(*value)


def to_bind(value: list[Any]) -> Bind:
    """The `Bind` of a value that passed the check `bind`."""
    return Bind(*value)


def list_of(check: Check, most: int) -> Check:
    """A check for a list of at most `most` items that pass `check`."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(check, value))


def numbers(length: int) -> Check:
    """A check for a list of exactly `length` numbers."""
    return lambda value: isinstance(value, list) and len(value) == length and all(map(natural, value))


#: Keeper to the preloader: fork a worker, which uses the descriptor as its channel.
TO_PRELOADER = {"fork": Shape(descriptors=1)}
#: Preloader to the keeper: the pipeline is loaded, or it cannot be loaded for this reason.
FROM_PRELOADER = {"ready": Shape(), "refused": Shape({"why": line})}

#: Keeper to a worker. `add`: serve a listening socket, with `on_link` if no router is between the guests and
#: the socket. `remove`: serve the socket no more. `count` and `alive`: answer with `counts` or `alive`.
#: `drain`: accept no more connections, and end when the last one has ended. `stop`: as `drain`, but do not
#: wait for idle connections.
TO_WORKER = {
    "add": Shape({"key": natural, "scope": scope, "on_link": flag}, descriptors=1),
    "remove": Shape({"key": natural}),
    "count": Shape(),
    "alive": Shape(),
    "drain": Shape(),
    "stop": Shape(),
}
MOST_COUNTS = 1000
#: Worker to the keeper: a worker can ask for nothing. `counts` has triples of the key of a listener,
#: connections accepted so far, and connections open now.
FROM_WORKER = {
    "ready": Shape(),
    "alive": Shape(),
    "counts": Shape({"counts": list_of(numbers(3), MOST_COUNTS)}),
}


def _place(value: Any) -> bool:
    """Whether this is `[namespace, bind, scope]`."""
    is_triple = isinstance(value, list) and len(value) == 3
    return is_triple and name(value[0]) and bind(value[1]) and scope(value[2])


def _path(value: Any) -> bool:
    """Whether this is an absolute path."""
    return line(value) and value.startswith("/")


MOST_PLACES = 100
#: What must be listened to, in one or several messages. `more` is false in the last one.
_WANT = Shape({"listeners": list_of(_place, MOST_PLACES), "more": flag})
#: The fields of `mdmw.node.desired.Places`.
_PLACES = {
    "state": _path,
    "neutron_dhcp": lambda value: value is None or _path(value),
    "firewall": lambda value: value in ("nftables", "iptables"),
}
#: Planner to the keeper. The first message is `places` or `refused`. After each look at its source, the
#: planner sends a `plan` (a sealed file in memory), `same` (the plan has not changed), or `trouble` (the
#: source cannot be read).
FROM_PLANNER = {
    "places": Shape(_PLACES),
    "refused": Shape({"why": line}),
    "plan": Shape(descriptors=1),
    "same": Shape(),
    "trouble": Shape({"why": line}),
}
#: Keeper to the process that applies a plan; and back, in this order: `listen` (what must be listened to),
#: one `problem` for each problem, and `report`. Or `refused`: the file is not a plan, and nothing was
#: changed.
TO_CONVERGE = {"apply": Shape(_PLACES, descriptors=1)}
FROM_CONVERGE = {
    "listen": Shape({"listeners": list_of(_place, MOST_PLACES)}),
    "problem": Shape({"what": line}),
    "report": Shape({"actions": natural, "waiting": natural}),
    "refused": Shape({"why": line}),
}

#: To the control socket, whose callers are root. `attach` has descriptors of a namespace and of a process:
#: the attachment ends with this process.
TO_CONTROL = {
    "want": _WANT,
    "attach": Shape({"name": name, "pid": natural, "scope": scope, "binds": list_of(bind, 4)}, descriptors=2),
    "detach": Shape({"name": name}),
    "list": Shape(),
    "status": Shape(),
    "take-over": Shape(),
    "taken-over": Shape(),
}
_LISTENER = {"namespace": name, "bind": bind, "scope": scope, "owner": name, "since": seconds}
#: Back from the control socket. `again`: a new keeper is taking over, so ask once more. `done` ends every
#: other answer. `planned` is when the plan was last known to be right, in seconds since 1970; 0 without a
#: plan.
FROM_CONTROL = {
    "done": Shape(),
    "refused": Shape({"why": line}),
    "again": Shape(),
    "listener": Shape({**_LISTENER, "connections": natural, "open": natural}),
    "status": Shape(
        {
            "pid": natural,
            "since": seconds,
            "listeners": natural,
            "attached": natural,
            "workers": natural,
            "planned": seconds,
        }
    ),
    "problem": Shape({"what": line}),
    "socket": Shape(_LISTENER, descriptors=1),
    "attached": Shape({"name": name, "pid": natural}, descriptors=1),
    "want": _WANT,
}
