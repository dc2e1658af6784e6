"""Questions to the kernel over netlink (RFC 3549) about all that there is of one kind.

pyroute2, by which changes are made, makes objects of every attribute of every device: 12 s
and 50 MiB for a thousand namespaces, and 25 MiB to begin with. Here a caller takes what it needs.
"""

import os
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_NUMBER = struct.Struct("=i")
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10  # linux/netlink.h
_ERROR, _DONE = 2, 3
_NO_ERROR = bytes(_NUMBER.size)
_TYPE = 0x3FFF  # the rest are flags
_LARGEST = 64 * 1024  # bytes of a datagram; the kernel makes them of 32 KiB
_TRIES = 20


def dump(protocol: int, kind: int, body: bytes, parse: Callable[[bytes], T]) -> list[T]:
    """What `parse` makes of each answer's body, in the namespace of this thread; raises OSError.

    Not for what may be long, and changes all the time, as the devices of a host: that may have no end.
    """
    for _ in range(_TRIES):
        found = _dump(protocol, kind, body, parse)
        if found is not None:
            return found
    raise BlockingIOError("the kernel is asked again and again, and each time something changes meanwhile")


def ask(protocol: int, kind: int, body: bytes) -> bytes:
    """The body of the answer about one thing; raises OSError, ENODEV if there is no such device."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST, 1, 0) + body)
        data = sock.recv(_LARGEST)
    length, what, *_ = _HEADER.unpack_from(data)
    answer = data[_HEADER.size : length]
    if what == _ERROR:
        raise _refusal(answer)
    return answer


def attribute(kind: int, value: bytes) -> bytes:
    """One for the body of a question."""
    length = _ATTRIBUTE.size + len(value)
    return (_ATTRIBUTE.pack(length, kind) + value).ljust(_aligned(length), b"\0")


def attributes(body: bytes, start: int) -> dict[int, bytes]:
    """Type -> value of what begins at `start`."""
    found = {}
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        found[kind & _TYPE] = body[start + _ATTRIBUTE.size : start + length]
        start += max(_aligned(length), _ATTRIBUTE.size)
    return found


def _dump(protocol: int, kind: int, body: bytes, parse: Callable[[bytes], T]) -> list[T] | None:
    """None when something has changed meanwhile."""
    found: list[T] = []
    is_whole = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, 1, 0) + body)
        while True:
            data = sock.recv(_LARGEST)
            start = 0
            while start < len(data):
                length, what, flags, _, _ = _HEADER.unpack_from(data, start)
                answer = data[start + _HEADER.size : start + length]
                is_whole = is_whole and not flags & _INTERRUPTED
                if what in (_ERROR, _DONE):
                    if answer[: _NUMBER.size] != _NO_ERROR:
                        raise _refusal(answer)
                    return found if is_whole else None
                found.append(parse(answer))
                start += _aligned(length)


def _refusal(answer: bytes) -> OSError:
    code = -_NUMBER.unpack_from(answer)[0]
    return OSError(code, os.strerror(code))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
