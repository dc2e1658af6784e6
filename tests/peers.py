"""Scripted peers: real listeners, unix or TCP, that treat each connection as a script says.

A script is a function of one `Conversation`. The n-th connection of a peer runs the n-th
script, the last one runs for all further ones. A peer keeps what it received, so that a test
can say what went over the wire, byte for byte.
"""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mdmw.upstream.address import Address

#: For waits that only a failing test exhausts.
PATIENCE = 20.0


@dataclass
class Received:
    """One request as it was on the wire."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    head: bytes = field(repr=False)

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def values(self, name: str) -> list[str]:
        """Every value of a header, `-` and `_` being equal."""
        wanted = name.lower().replace("_", "-")
        return [value for key, value in self.headers if key.lower().replace("_", "-") == wanted]

    def value(self, name: str) -> str | None:
        """The one value of a header, None if absent."""
        values = self.values(name)
        assert len(values) < 2, f"{name} is there {len(values)} times"
        return values[0] if values else None


class Conversation:
    """One connection, seen from the peer."""

    def __init__(self, peer: "Peer", sock: socket.socket, number: int) -> None:
        self.peer = peer
        self.sock = sock
        self.number = number
        self._buffer = b""

    def request(self) -> Received | None:
        """The next request, read whole and noted in the peer; None when the other side closed."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (text.partition(":") for text in rest)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        received = Received(line, headers, body, head)
        self.peer.note(received)
        return received

    def _more(self) -> bool:
        data = self.sock.recv(65536)
        self._buffer += data
        return bool(data)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, interval: float) -> None:
        """One byte at a time."""
        for position in range(len(data)):
            self.send(data[position : position + 1])
            if self.peer.closing.wait(interval):
                return

    def reset(self) -> None:
        """End the connection with RST where the transport has one."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def hold(self) -> None:
        """Say nothing until the other side, or the test, gives up."""
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass

    def wait_for(self, event: threading.Event) -> None:
        """Until the test sets `event`, or ends."""
        while not event.wait(0.01):
            if self.peer.closing.is_set():
                raise ConnectionAbortedError


Script = Callable[[Conversation], None]


class Peer:
    """A listener and its connections."""

    def __init__(
        self, listener: socket.socket, scripts: tuple[Script, ...], tls: ssl.SSLContext | None
    ) -> None:
        self._listener = listener
        self._scripts = scripts
        self._tls = tls
        self._condition = threading.Condition()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.closing = threading.Event()
        self.requests: list[Received] = []
        self.connections = 0
        self.closed = 0
        self.failures: list[BaseException] = []
        self._start(self._accept)

    @property
    def address(self) -> Address:
        if self._listener.family == socket.AF_UNIX:
            return Address("unix", path=self._listener.getsockname())
        host, port = self._listener.getsockname()[:2]
        return Address("https" if self._tls else "http", host, port)

    def note(self, received: Received) -> None:
        with self._condition:
            self.requests.append(received)
            self._condition.notify_all()

    def wait_until(self, holds: Callable[["Peer"], bool]) -> None:
        """Until `holds(self)`, looked at after each request and each end of a connection."""
        with self._condition:
            assert self._condition.wait_for(lambda: holds(self), PATIENCE), "the peer waited in vain"

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._condition:
            still_open = list(self._open)
        for sock in still_open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()
        assert not self.failures, self.failures

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._condition:
                number = self.connections
                self.connections += 1
                self._open.add(sock)
                self._condition.notify_all()
            self._start(self._converse, sock, number)

    def _converse(self, sock: socket.socket, number: int) -> None:
        conversation = Conversation(self, sock, number)
        try:
            if self._tls:
                conversation.sock = self._tls.wrap_socket(sock, server_side=True)
            self._scripts[min(number, len(self._scripts) - 1)](conversation)
        except OSError:
            pass  # the other side, or the end of the test, cut the script short
        except BaseException as error:
            self.failures.append(error)
        finally:
            conversation.sock.close()
            sock.close()
            with self._condition:
                self._open.discard(sock)
                self.closed += 1
                self._condition.notify_all()


class Peers:
    """Makes peers for one test and closes them after it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._made = contextlib.ExitStack()
        self._count = 0

    def tcp(self, *scripts: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Peer:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, 0))
        return self._listen(listener, scripts, tls)

    def unix(self, *scripts: Script, backlog: int = 1024) -> Peer:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.absent().path)
        return self._listen(listener, scripts, None, backlog)

    def of(self, transport: str, *scripts: Script) -> Peer:
        """`unix` or `tcp`."""
        return self.unix(*scripts) if transport == "unix" else self.tcp(*scripts)

    def absent(self) -> Address:
        """A unix socket that is not there."""
        self._count += 1
        return Address("unix", path=f"{self._directory}/{self._count}")

    def refusing(self) -> Address:
        """A TCP port that nobody listens on, reserved for the test."""
        sock = self._made.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        return Address("http", *sock.getsockname())

    def unreachable(self) -> Address:
        """A TCP port whose backlog is full, so that a connection is never made."""
        listener = self._made.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            filler = self._made.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        return Address("http", *listener.getsockname())

    def close(self) -> None:
        self._made.close()

    def _listen(
        self,
        listener: socket.socket,
        scripts: tuple[Script, ...],
        tls: ssl.SSLContext | None,
        backlog: int = 1024,
    ) -> Peer:
        listener.listen(backlog)
        peer = Peer(listener, scripts, tls)
        self._made.callback(peer.close)
        return peer


# --- scripts ----------------------------------------------------------------------------


def response(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    """A response with an exact Content-Length."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def chunked(*pieces: bytes, status: str = "200 OK") -> bytes:
    """A chunked response."""
    head = f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def answers(*responses: bytes) -> Script:
    """Keep the connection, and give each request the next of these, the last one for ever."""

    def script(conversation: Conversation) -> None:
        served = 0
        while conversation.request():
            conversation.send(responses[min(served, len(responses) - 1)])
            served += 1

    return script


def once(data: bytes, reset: bool = False) -> Script:
    """Answer one request with `data`, then end the connection."""

    def script(conversation: Conversation) -> None:
        if conversation.request():
            conversation.send(data)
            if reset:
                conversation.reset()

    return script


def then_hold(data: bytes) -> Script:
    """Answer one request with `data`, then keep the connection and say nothing more."""

    def script(conversation: Conversation) -> None:
        if conversation.request():
            conversation.send(data)
            conversation.hold()

    return script


def dripping(data: bytes, interval: float) -> Script:
    """Answer one request with `data`, a byte at a time."""

    def script(conversation: Conversation) -> None:
        if conversation.request():
            conversation.drip(data, interval)

    return script


def hang_up(conversation: Conversation) -> None:
    """Read the request and close without a word."""
    conversation.request()


def reset(conversation: Conversation) -> None:
    """Read the request and reset the connection."""
    conversation.request()
    conversation.reset()


def silent(conversation: Conversation) -> None:
    """Read everything, answer nothing."""
    conversation.hold()


def echo(conversation: Conversation) -> None:
    """Answer each request with its own head and body."""
    while received := conversation.request():
        conversation.send(response("200 OK", received.head + b"\n" + received.body))


class Gate:
    """A script that answers once the test opens the gate, and counts who is inside."""

    def __init__(self, data: bytes | None = None) -> None:
        self._data = data or response("200 OK", b"through")
        self._condition = threading.Condition()
        self._open = threading.Event()
        self.inside = 0
        self.most_inside = 0

    def __call__(self, conversation: Conversation) -> None:
        while conversation.request():
            with self._condition:
                self.inside += 1
                self.most_inside = max(self.most_inside, self.inside)
                self._condition.notify_all()
            conversation.wait_for(self._open)
            with self._condition:
                self.inside -= 1
            conversation.send(self._data)

    def wait_for(self, count: int) -> None:
        """Until `count` requests are inside."""
        with self._condition:
            assert self._condition.wait_for(lambda: self.inside >= count, PATIENCE), f"{self.inside} inside"

    def open(self) -> None:
        self._open.set()


@contextlib.contextmanager
def peers_in(directory: str) -> Iterator[Peers]:
    made = Peers(directory)
    try:
        yield made
    finally:
        made.close()
