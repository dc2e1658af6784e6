"""Questions to the kernel over netlink (RFC 3549), and the attributes of questions and answers.

pyroute2, by which changes are made, makes objects of every attribute of every device: 12 s and 50 MiB for a
thousand namespaces, and 25 MiB for the import. Here a caller parses only what it needs.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_NUMBER = struct.Struct("=i")
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10  # linux/netlink.h
_ERROR, _DONE = 2, 3
_NO_ERROR = bytes(_NUMBER.size)
_TYPE = 0x3FFF  # the other bits are flags
_LARGEST = 64 * 1024  # bytes of a datagram; those of the kernel have 32 KiB
_TRIES = 20


def dump(protocol: int, kind: int, body: bytes, parse: Callable[[bytes], T]) -> list[T]:
    """What `parse` makes of the body of each answer, in the namespace of this thread; raises OSError.

    Asks again while answers change. Not for a list that is long and changes all the time, such as the devices
    of a host: that raises BlockingIOError after 20 tries.
    """
    for _ in range(_TRIES):
        found = _dump(protocol, kind, body, parse)
        if found is not None:
            return found
    raise BlockingIOError("each of 20 answers of the kernel has changed while it was read")


def ask(protocol: int, kind: int, body: bytes) -> bytes:
    """The body of the answer about one thing; raises OSError, with ENODEV when there is no such device."""
    with connect(protocol) as sock:
        return ask_over(sock, kind, body)


def connect(protocol: int, timeout: float | None = None) -> socket.socket:
    """A socket for questions, in the namespace of this thread; `timeout` in seconds. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.settimeout(timeout)
    return sock


def ask_over(sock: socket.socket, kind: int, body: bytes) -> bytes:
    """Ask as `ask` does, over a socket from `connect`, which may carry several questions in turn."""
    sock.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST, 1, 0) + body)
    what, _, answer = next(_messages(sock.recv(_LARGEST)), (_ERROR, 0, b""))
    if what == _ERROR:
        raise _refusal(answer)
    return answer


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute for the body of a question."""
    length = _ATTRIBUTE.size + len(value)
    return (_ATTRIBUTE.pack(length, kind) + value).ljust(_aligned(length), b"\0")


def attributes(body: bytes, start: int) -> dict[int, bytes]:
    """Type -> value of the attributes of a body, which begin at the byte `start`.

    An attribute with a length that cannot be is the last one that is read.
    """
    found: dict[int, bytes] = {}
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE] = body[start + _ATTRIBUTE.size : start + length]
        start += _aligned(length)
    return found


def _dump(protocol: int, kind: int, body: bytes, parse: Callable[[bytes], T]) -> list[T] | None:
    """The parsed answers; None when the list has changed while it was read."""
    found: list[T] = []
    is_whole = True
    with connect(protocol) as sock:
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, 1, 0) + body)
        while True:
            for what, flags, answer in _messages(sock.recv(_LARGEST)):
                is_whole = is_whole and not flags & _INTERRUPTED
                if what in (_ERROR, _DONE):
                    if answer[: _NUMBER.size] != _NO_ERROR:
                        raise _refusal(answer)
                    return found if is_whole else None
                found.append(parse(answer))


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each message in a datagram; raises OSError for a length that cannot be."""
    start = 0
    while start + _HEADER.size <= len(data):
        length, what, flags, _, _ = _HEADER.unpack_from(data, start)
        if length < _HEADER.size:
            raise OSError(errno.EBADMSG, "the kernel has sent a message with an impossible length")
        yield what, flags, data[start + _HEADER.size : start + length]
        start += _aligned(length)


def _refusal(answer: bytes) -> OSError:
    code = -_NUMBER.unpack_from(answer)[0] if len(answer) >= _NUMBER.size else errno.EBADMSG
    return OSError(code, os.strerror(code))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
