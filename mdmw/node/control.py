"""The control socket of the keeper, both ends: `Control` for the keeper, `KeeperClient` for its callers.

Only root is heard. A new keeper uses this socket to take over from the keeper that runs.
"""

import collections
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from mdmw.errors import MdmwError
from mdmw.identity import peer_credentials
from mdmw.node.channel import (
    FROM_CONTROL,
    TO_CONTROL,
    Channel,
    ChannelError,
    Ended,
    Message,
    as_line,
    enlarge,
)
from mdmw.node.loop import Loop

LOG = logging.getLogger(__name__)

#: Where the socket is, unless an option says otherwise.
DEFAULT_PATH = "/run/mdmw/node.sock"
_BACKLOG = 128
_NOBODY_ELSE = 0o177  # umask
_PATIENCE = 10.0  # seconds
_AGAIN_EVERY = 0.1  # seconds


class ControlError(MdmwError):
    """The keeper did not answer, or it refused; the text is one line."""


class KeeperAbsent(ControlError):
    """No keeper listens on the socket."""


class TakingOver(ControlError):
    """Another keeper is taking over: ask once more."""


class Handler(Protocol):
    """The keeper, which acts on the messages of callers."""

    def obey(self, session: "ControlSession", message: Message) -> None:
        """Act on a message and answer it; raises `MdmwError` or OSError to refuse it."""

    def session_ended(self, session: "ControlSession") -> None:
        """The caller has closed its end."""


class Control:
    """The keeper's end: listens at `path`, and replaces a socket that is there. Raises OSError."""

    def __init__(self, loop: Loop, path: Path, handler: Handler) -> None:
        self._loop = loop
        self._path = path
        self._handler = handler
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.setblocking(False)
            self._inode = self._bind()
            loop.watch(self._sock.fileno(), self._accept)
        except OSError:
            self._sock.close()
            raise

    def close(self) -> None:
        """Listen no more. The file goes too, unless it is that of a newer keeper."""
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _bind(self) -> int:
        """Listen; the inode of the file."""
        temporary = self._path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        umask = os.umask(_NOBODY_ELSE)
        try:
            self._sock.bind(str(temporary))
        finally:
            os.umask(umask)
        self._sock.listen(_BACKLOG)
        temporary.replace(self._path)
        return self._path.stat().st_ino

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        try:
            if peer_credentials(sock).uid == 0:
                ControlSession(self._loop, sock, self._handler)
                return
            LOG.warning("%s: a caller that is not root is refused", self._path)
        except OSError as error:
            LOG.warning("%s: a caller cannot be heard: %s", self._path, error)
        sock.close()


class ControlSession:
    """One caller, which may ask several things. Answers wait here until the caller reads them.

    The constructor raises OSError.
    """

    def __init__(self, loop: Loop, sock: socket.socket, handler: Handler) -> None:
        sock.setblocking(False)
        enlarge(sock)
        self._loop = loop
        self._channel = Channel(sock, TO_CONTROL)
        self._handler = handler
        self._answers: collections.deque[tuple[str, Sequence[int], dict[str, Any]]] = collections.deque()
        loop.watch(sock.fileno(), self._hear)

    def answer(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send a message, at once or later. The descriptors must stay open until then."""
        if self._channel.sock.fileno() >= 0:
            self._answers.append((kind, descriptors, fields))
            self._flush()

    def end(self) -> None:
        """Close this end; safe to call twice."""
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
                LOG.warning("the connection of a caller is closed: %s", error)
            self.end()
            return
        try:
            self._handler.obey(self, message)
        except (MdmwError, OSError) as error:
            self.answer("refused", why=as_line(str(error)))
        finally:
            for descriptor in message.descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)


# --- the callers' end -------------------------------------------------------------------


@contextlib.contextmanager
def called(path: Path, patience: float = _PATIENCE) -> Iterator["KeeperClient"]:
    """A connection to the keeper at `path`; raises `ControlError`.

    `patience` is the most seconds that one message may take.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(patience)
        try:
            sock.connect(str(path))
        except OSError as error:
            raise KeeperAbsent(f"{path}: no keeper is there: {error.strerror}") from None
        if peer_credentials(sock).uid != 0:
            raise ControlError(f"{path}: the process that listens there is not root's")
        yield KeeperClient(Channel(sock, FROM_CONTROL))


def ask_again(ask: Callable[[], None], patience: float = _PATIENCE) -> None:
    """Call `ask`, and call it again while one keeper takes over from another; raises `ControlError`.

    `patience` is the most seconds that the takeover may take.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return ask()
        except TakingOver:
            if time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_EVERY)  # nothing tells a caller when the new keeper's socket is there


class KeeperClient:
    """Asks the keeper over a connection."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def ask(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> Iterator[Message]:
        """The messages that come before `done`; raises `ControlError`, and `TakingOver` to ask once more."""
        try:
            self._channel.send(kind, descriptors, **fields)
            while (message := self._channel.receive()).kind != "done":
                if message.kind == "refused":
                    raise ControlError(message.fields["why"])
                if message.kind == "again":
                    raise TakingOver("another keeper is taking over")
                yield message
        except (ChannelError, OSError) as error:
            raise ControlError(f"the keeper does not answer: {error}") from None

    def tell(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Ask something that has no answer but `done`; raises as `ask` does."""
        for message in self.ask(kind, descriptors, **fields):
            for descriptor in message.descriptors:
                os.close(descriptor)
