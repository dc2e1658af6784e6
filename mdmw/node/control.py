"""The control socket: what root can ask of the keeper, and where a new keeper takes over from an old one."""

import collections
import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from mdmw.errors import MdmwError
from mdmw.node.channel import FROM_CONTROL, TO_CONTROL, Channel, ChannelError, Ended, Message, enlarge
from mdmw.node.loop import Loop

LOG = logging.getLogger(__name__)

_BACKLOG = 128
_NOBODY_ELSE = 0o177
_CREDENTIALS = struct.Struct("3i")
_PATIENCE = 10.0
_AGAIN_EVERY = 0.1


class ControlError(MdmwError):
    """The keeper is not there, or said no; one line."""


class Absent(ControlError):
    """No keeper is there."""


class Again(ControlError):
    """Ask once more, of the keeper that is there then."""


class Handler(Protocol):
    """Who acts on messages."""

    def obey(self, session: "Session", message: Message) -> None:
        """Act, and answer; raises `MdmwError` and OSError to refuse."""

    def session_ended(self, session: "Session") -> None:
        """The caller has gone."""


class Control:
    """Listens at `path`, in the place of what is there."""

    def __init__(self, loop: Loop, path: Path, handler: Handler) -> None:
        self._loop = loop
        self._path = path
        self._handler = handler
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        umask = os.umask(_NOBODY_ELSE)
        try:
            self._sock.bind(str(temporary))
        finally:
            os.umask(umask)
        self._sock.listen(_BACKLOG)
        temporary.replace(path)
        self._inode = path.stat().st_ino
        loop.watch(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Listen no more, and remove the file, unless a new keeper's is in its place."""
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        if not _is_root(sock):
            LOG.warning("%s: a caller that is not root", self._path)
            sock.close()
            return
        Session(self._loop, sock, self._handler)


class Session:
    """One caller, who may ask several things; answers wait until it reads them."""

    def __init__(self, loop: Loop, sock: socket.socket, handler: Handler) -> None:
        sock.setblocking(False)
        enlarge(sock)
        self._loop = loop
        self._channel = Channel(sock, TO_CONTROL)
        self._handler = handler
        self._answers: collections.deque[tuple[str, Sequence[int], dict[str, Any]]] = collections.deque()
        loop.watch(sock.fileno(), self._hear)

    def answer(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Say something; the descriptors must stay open until it is said."""
        if self._channel.sock.fileno() >= 0:
            self._answers.append((kind, descriptors, fields))
            self._flush()

    def end(self) -> None:
        """Close."""
        if self._channel.sock.fileno() >= 0:
            self._loop.forget(self._channel.sock.fileno())
            self._channel.close()
            self._handler.session_ended(self)

    def _flush(self) -> None:
        try:
            while self._answers:
                kind, descriptors, fields = self._answers[0]
                self._channel.send(kind, descriptors, **fields)
                self._answers.popleft()
        except BlockingIOError:
            self._loop.wait_to_write(self._channel.sock.fileno(), self._flush)
        except OSError:
            self.end()
        else:
            self._loop.wait_to_write(self._channel.sock.fileno(), None)

    def _hear(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        except (ChannelError, OSError) as error:
            if not isinstance(error, Ended):
                LOG.warning("a caller is hung up on: %s", error)
            self.end()
            return
        try:
            self._handler.obey(self, message)
        except (MdmwError, OSError) as error:
            self.answer("refused", why=" ".join(str(error).split())[:1999])
        finally:
            for descriptor in message.descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)


# --- the other side ---------------------------------------------------------------------


@contextlib.contextmanager
def called(path: Path, patience: float = _PATIENCE) -> Iterator["Caller"]:
    """A connection to the keeper; raises `ControlError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(patience)
        try:
            sock.connect(str(path))
        except OSError as error:
            raise Absent(f"{path}: no keeper is there: {error.strerror}") from None
        if not _is_root(sock):
            raise ControlError(f"{path}: is not root's")
        yield Caller(Channel(sock, FROM_CONTROL))


def ask_again(ask: Callable[[], None], patience: float = _PATIENCE) -> None:
    """Call `ask`, again and again while one keeper takes over from another; raises `ControlError`."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return ask()
        except Again:
            if time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_EVERY)  # the new keeper has another socket, of which nobody can tell yet


class Caller:
    """Asks the keeper."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def ask(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> Iterator[Message]:
        """What comes before `done`; raises `ControlError`, and `Again` when another keeper is taking over."""
        try:
            self._channel.send(kind, descriptors, **fields)
            while (message := self._channel.receive()).kind != "done":
                if message.kind == "refused":
                    raise ControlError(message.fields["why"])
                if message.kind == "again":
                    raise Again("another keeper is taking over")
                yield message
        except (ChannelError, OSError) as error:
            raise ControlError(f"the keeper does not answer: {error}") from None

    def tell(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Ask what has no answer but `done`."""
        for message in self.ask(kind, descriptors, **fields):
            for descriptor in message.descriptors:
                os.close(descriptor)


def _is_root(sock: socket.socket) -> bool:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == 0)
