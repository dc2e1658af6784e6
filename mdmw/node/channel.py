"""Messages between the processes of a node: a JSON object each, with descriptors beside it, strictly checked.

Over SOCK_SEQPACKET, so that a message arrives whole or not at all. What is not
exactly as the receiver's table of shapes says is a `ChannelError`, and none of
its descriptors stays open.
"""

import array
import contextlib
import json
import os
import re
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdmw.errors import MdmwError
from mdmw.node.namespaces import Bind
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6, Scope, is_uuid

Check = Callable[[Any], bool]

_LONGEST = 64 * 1024
_CREDENTIALS = struct.Struct("3i")
# For descriptors, more than any message has, and for who sent it.
_ROOM = socket.CMSG_SPACE(4 * array.array("i").itemsize) + socket.CMSG_SPACE(_CREDENTIALS.size)
_BUFFER = 4 * 1024 * 1024
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_ADDRESSES = (METADATA_ADDRESS, METADATA_ADDRESS_V6, "::", "0.0.0.0")  # noqa: S104 - where guests may be met
_LAST_PORT = 65535


class ChannelError(MdmwError):
    """What came is not a message that is allowed here."""


class Ended(ChannelError):
    """The other side has closed."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a kind of message must have: each field with its check, and so many descriptors."""

    fields: Mapping[str, Check] = field(default_factory=dict)
    descriptors: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message; its `descriptors` are now the receiver's to close.

    `sender` is a process id, from the kernel, where the receiver's socket has SO_PASSCRED.
    """

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()
    sender: int = 0


class Channel:
    """One end. `accepts` names the kinds that may come. The socket decides whether calls wait."""

    def __init__(self, sock: socket.socket, accepts: Mapping[str, Shape]) -> None:
        self.sock = sock
        self._accepts = accepts

    def send(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Raises OSError; BlockingIOError when the other side does not read."""
        text = json.dumps({"kind": kind, **fields}, separators=(",", ":")).encode()
        if descriptors:
            socket.send_fds(self.sock, [text], list(descriptors))
        else:
            self.sock.send(text)

    def receive(self) -> Message:
        """The next message; raises `ChannelError`, `Ended` and OSError."""
        # Not socket.recv_fds, which drops its flags: programs started later would inherit what comes.
        data, ancillary, flags, _ = self.sock.recvmsg(_LONGEST, _ROOM, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        sender = 0
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(raw[: len(raw) - len(raw) % descriptors.itemsize])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                sender = _CREDENTIALS.unpack(raw)[0]
        try:
            return self._checked(data, tuple(descriptors), flags, sender)
        except ChannelError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def close(self) -> None:
        """Close this end; safe to call twice."""
        self.sock.close()

    def _checked(self, data: bytes, descriptors: tuple[int, ...], flags: int, sender: int) -> Message:
        if not data and not descriptors:
            raise Ended("the other side has closed")
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
    """Both ends of a new connection, for `Channel`."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        enlarge(end)
    return ends


def enlarge(sock: socket.socket) -> None:
    """Room for a thousand messages, where this process may have it."""
    with contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)


# --- checks -----------------------------------------------------------------------------


def natural(value: Any) -> bool:
    """A number from 0, and of a size that no counter here reaches."""
    return type(value) is int and 0 <= value < 2**53


def flag(value: Any) -> bool:
    """True or false."""
    return type(value) is bool


def seconds(value: Any) -> bool:
    """A point in time."""
    return type(value) in (int, float) and 0 <= value < 2**40


def line(value: Any) -> bool:
    """A text of one line."""
    return isinstance(value, str) and len(value) < 2000 and value.isprintable()


def as_line(text: str) -> str:
    """A text for people as one that passes the check `line`."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:1999]


def name(value: Any) -> bool:
    """The name of a namespace or an attachment: part of a path, and never `..`."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def scope(value: Any) -> bool:
    """`[kind, UUID]` of a network or router."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and value[0] in ("network", "router")
        and isinstance(value[1], str)
        and is_uuid(value[1])
    )


def bind(value: Any) -> bool:
    """`[address, port, device or null]`; only where metadata is served."""
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
    """What passed the check `scope`, as a record."""
    return Scope(*value)


def to_bind(value: list[Any]) -> Bind:
    """What passed the check `bind`, as a value."""
    return Bind(*value)


def list_of(check: Check, most: int) -> Check:
    """A list of up to `most` of what `check` is for."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(check, value))


def numbers(length: int) -> Check:
    """A list of exactly so many numbers."""
    return lambda value: isinstance(value, list) and len(value) == length and all(map(natural, value))


#: Keeper to the preloader: fork a worker, which is to speak over the descriptor.
TO_PRELOADER = {"fork": Shape(descriptors=1)}
#: The pipeline is loaded, or cannot be, and that is why.
FROM_PRELOADER = {"ready": Shape(), "refused": Shape({"why": line})}

#: Keeper to a worker: serve a listening socket, or no longer. `on_link`: no router is between its guests and
#: it. `alive`: it is to say so. `drain`: take no more connections, and end with the last there is; `stop`: do
#: not wait for idle ones.
TO_WORKER = {
    "add": Shape({"key": natural, "scope": scope, "on_link": flag}, descriptors=1),
    "remove": Shape({"key": natural}),
    "count": Shape(),
    "alive": Shape(),
    "drain": Shape(),
    "stop": Shape(),
}
MOST_COUNTS = 1000
#: A worker can ask for nothing. Counts are (key of a listener, connections so far, connections now).
FROM_WORKER = {
    "ready": Shape(),
    "alive": Shape(),
    "counts": Shape({"counts": list_of(numbers(3), MOST_COUNTS)}),
}


def _place(value: Any) -> bool:
    """`[namespace, bind, scope]`."""
    is_triple = isinstance(value, list) and len(value) == 3
    return is_triple and name(value[0]) and bind(value[1]) and scope(value[2])


def _path(value: Any) -> bool:
    """An absolute one."""
    return line(value) and value.startswith("/")


MOST_PLACES = 100
#: What must be listened to; it counts once `more` is false, as a whole.
_WANT = Shape({"listeners": list_of(_place, MOST_PLACES), "more": flag})
#: Where a plan is applied, as `mdmw.node.programs.Places` has it.
_PLACES = {
    "state": _path,
    "neutron_dhcp": lambda value: value is None or _path(value),
    "firewall": lambda value: value in ("nftables", "iptables"),
}
#: The planner's first word is `places` or `refused`. Then for each look one of: a `plan`, in a sealed file in
#: memory; the `same` as before; `trouble`, which is why nobody knows.
FROM_PLANNER = {
    "places": Shape(_PLACES),
    "refused": Shape({"why": line}),
    "plan": Shape(descriptors=1),
    "same": Shape(),
    "trouble": Shape({"why": line}),
}
#: Keeper to the process that applies a plan; and back, in this order: what must be listened to, and
#: `problem` for each, then `report`. Or the plan is `refused`, and nothing was touched.
TO_CONVERGE = {"apply": Shape(_PLACES, descriptors=1)}
FROM_CONVERGE = {
    "listen": Shape({"listeners": list_of(_place, MOST_PLACES)}),
    "problem": Shape({"what": line}),
    "report": Shape({"actions": natural, "waiting": natural}),
    "refused": Shape({"why": line}),
}

#: To the control socket, whose callers are root. `attach` has a namespace, and a process with which it ends.
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
#: Back from there. `again`: a new keeper is taking over, ask once more; `done` ends every other answer.
#: `planned` is when the plan was last known to be right, in seconds since 1970; 0 without one.
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
