"""An HTTP/1.1 connection over a unix socket, TCP or TLS. A deadline bounds every wait."""

import socket
import ssl
import struct
import sys
import time
from typing import Any, NamedTuple

import httptools

from mdmw.upstream.address import Address

Headers = list[tuple[str, str]]

#: The longest head in bytes, and the number of its headers; with the heads of interim responses.
MAX_HEAD = 64 * 1024
MAX_HEADERS = 256
_BETWEEN = len(": \r\n")
_VERSIONS = ("1.0", "1.1")
_HEAD_TOO_LARGE = f"a head of more than {MAX_HEAD} bytes or {MAX_HEADERS} headers"
_INTERIM = range(100, 200)
_END_OF_HEAD = b"\r\n\r\n"
_LONGEST_KNOWN, _MOST_KNOWN = 2048, 256  # bytes of a head, heads


class BadResponse(Exception):
    """The bytes are not an HTTP/1 response."""


class Cut(Exception):
    """The connection ended in the middle of a response."""


class _Head(NamedTuple):
    """A parsed head whose body was as long as its Content-Length."""

    status: int
    reason: str
    headers: Headers
    length: int


# While many guests boot, a few heads come many times; only the second in their Date changes.
_known: dict[bytes, _Head] = {}


class Response:
    """The final response to one request. Interim responses (1xx) are skipped (RFC 9110, 15.2).

    llhttp parses strictly: two lengths, doubtful lengths and folded lines are errors. A lone LF may end a
    line, since the agent of Neutron 2025.1 and later writes this.
    """

    def __init__(self, to_head: bool) -> None:
        self.status = 0
        self.reason = ""
        self.headers: Headers = []
        self.begun = False  # the head has arrived
        self.complete = False
        self.received = 0  # bytes of body so far
        self._to_head = to_head
        self._head_size = 0
        self._header_bytes = 0
        self._unusable = ""
        self._parts: list[bytes] = []
        self._keep_alive = False
        self._surplus = False
        self._parser: Any = None

    @property
    def started(self) -> bool:
        """Whether any byte has arrived."""
        return self._head_size > 0

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request: nothing follows the response."""
        return self.complete and self._keep_alive and not self._surplus

    @property
    def length(self) -> int | None:
        """The Content-Length, or None."""
        value = next((value for name, value in self.headers if name.lower() == "content-length"), None)
        return int(value) if value is not None else None

    def feed(self, data: bytes) -> None:
        """Take bytes that arrived; raises `BadResponse`."""
        if not self.started:
            if not data.startswith(b"H"):
                raise BadResponse("no status line")
            self._begin(data)
            return
        if not self.begun:
            self._head_size += len(data)
        self._parse(data)

    def _begin(self, data: bytes) -> None:
        """Take the first bytes. A complete response with a known head needs no parser."""
        self._head_size = len(data)
        head, _, body = data.partition(_END_OF_HEAD)
        known = None if self._to_head else _known.get(head)
        if known is not None and known.length == len(body):
            self.status, self.reason, headers, self.received = known
            self.headers = headers.copy()
            self._parts = [body]
            self.begun = self.complete = self._keep_alive = True
            return
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
        self._parse(data)
        if (
            self.reusable
            and not self._to_head
            and self.received == len(body) == self.length
            and len(head) <= _LONGEST_KNOWN
        ):
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[head] = _Head(self.status, self.reason, self.headers.copy(), self.received)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise BadResponse(str(error)) from None
            self._surplus = True
        if self._unusable or (not self.begun and self._head_size > MAX_HEAD):
            raise BadResponse(self._unusable or _HEAD_TOO_LARGE)
        if self.complete:
            self._parser = None  # it refers back to this object

    def end(self) -> None:
        """The connection has ended; raises `Cut` unless the end of the connection is the end of the body."""
        if not self.begun:
            raise Cut("in the head" if self.started else "without an answer")
        if self.length is not None or self._is_chunked():
            raise Cut(f"after {self.received} bytes of the body")
        self.complete = True
        self._parser = None

    def take(self) -> bytes:
        """The bytes of the body that have arrived since the last call."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _is_chunked(self) -> bool:
        return any(name.lower() == "transfer-encoding" for name, _ in self.headers)

    # --- called by httptools -------------------------------------------------------------

    # After the end of the response only one thing matters: whether more bytes follow.

    def on_message_begin(self) -> None:
        self._surplus = self.complete

    def on_status(self, part: bytes) -> None:
        if not self.complete:
            self.reason += part.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self.headers.append((name.decode("latin-1"), value.decode("latin-1")))
            self._header_bytes += len(name) + len(value) + _BETWEEN
            if self._header_bytes > MAX_HEAD or len(self.headers) > MAX_HEADERS:
                self._unusable = _HEAD_TOO_LARGE

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        if self._parser.get_http_version() not in _VERSIONS:
            self._unusable = "not HTTP/1"
        self.status = self._parser.get_status_code()
        if self.status not in _INTERIM:
            self.begun = True
            self.complete = self._to_head
            self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, part: bytes) -> None:
        if self.complete:
            self._surplus = True
        else:
            self._parts.append(part)
            self.received += len(part)

    def on_message_complete(self) -> None:
        if self.status in _INTERIM and not self.complete:
            self.reason = ""
            self.headers = []
        else:
            self.complete = True


_BACKLOG_PAUSE = 0.01  # seconds before the next try to connect to a full backlog
_CHUNK = 64 * 1024
_SHORTEST = 0.001
_SO_MEMINFO = 55  # Linux 4.12, include/uapi/asm-generic/socket.h
_MEMINFO_BYTES = 9 * 4
_CUT = "UNEXPECTED_EOF_WHILE_READING"
_TIMEVAL = struct.Struct("@ll")


class Connection:
    """An open connection to one address; one exchange at a time."""

    def __init__(self, address: Address, connect_timeout: float, tls: ssl.SSLContext | None) -> None:
        """Connect; raises OSError (also for DNS and TLS) when no address answers in time."""
        self.address = address
        self.idle_since = 0.0
        self._read_timeout = 0.0
        self._deadline = 0.0
        self._timeout = 0.0
        self._sock = _open(address, connect_timeout, tls)
        # Threads pay for each system call with the interpreter lock: a timeout kept by the
        # kernel saves them a poll before each one. Sockets of gevent never block, so that it
        # would do nothing; they may have come after this module was imported.
        self._in_kernel = tls is None and type(self._sock).__module__ == "socket"
        self._is_tcp = self._sock.family != socket.AF_UNIX
        self._has_tls = tls is not None
        if self._in_kernel:
            self._sock.settimeout(None)

    def send(self, request: bytes, read_timeout: float, deadline: float) -> None:
        """Send a request. Reads wait `read_timeout` seconds at most, and until `deadline`; raises OSError."""
        self._read_timeout = read_timeout
        self._deadline = deadline
        self._bound()
        try:
            # gevent's sendall costs several times as much, and is needed only when a buffer is full.
            sent = self._sock.send(request)
            if sent < len(request):
                self._sock.sendall(memoryview(request)[sent:])
        except (BlockingIOError, ssl.SSLWantWriteError):
            raise TimeoutError("the request could not be sent") from None
        except (ConnectionError, ssl.SSLEOFError):
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.recv(1)  # raises the reason that a server of TLS 1.3 gave before it hung up
            raise

    def receive(self, response: Response) -> None:
        """Read once, into `response`; raises `Cut`, `BadResponse`, TimeoutError and other OSErrors."""
        self._bound()
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError):
            raise TimeoutError("not a byte") from None
        except ssl.SSLError as error:
            if error.reason == _CUT:  # Python before 3.11.4 has no SSLEOFError for it
                raise ConnectionResetError("the connection was cut without an end of TLS") from None
            raise
        if not data:
            response.end()
            return
        response.feed(data)
        if not response.complete and self._is_tcp:
            # ACK at once: an upstream that writes head and body apart, with Nagle's
            # algorithm on, would otherwise wait 40 ms for it.
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def is_alive(self) -> bool:
        """False when the peer closed the idle connection, or sent bytes that were not asked for."""
        try:
            if self._is_tcp and not self._has_tls:
                # This sees the end of the connection too, and unlike recv it keeps the interpreter lock.
                memory = self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_BYTES)
                return not int.from_bytes(memory[:4], sys.byteorder)  # what has arrived and was not read
            if self._in_kernel:
                self._sock.recv(1, socket.MSG_DONTWAIT)
            else:
                self._timeout = 0.0
                self._sock.settimeout(0)
                self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Close; safe to call twice."""
        self._sock.close()

    def _bound(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for this request has ended")
        timeout = max(min(self._read_timeout, left), _SHORTEST)
        if timeout == self._timeout:
            return
        self._timeout = timeout
        if self._in_kernel:
            seconds = int(timeout)
            value = _TIMEVAL.pack(seconds, int((timeout - seconds) * 1e6))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
        else:
            self._sock.settimeout(timeout)


def _open(address: Address, timeout: float, tls: ssl.SSLContext | None) -> socket.socket:
    """Connect to the first address of a name that answers. A silent address leaves time for the others."""
    deadline = time.monotonic() + timeout
    error: OSError = OSError(f"{address} has no address")
    targets = _targets(address)
    for position, (family, target) in enumerate(targets):
        now = time.monotonic()
        share = max(deadline - now, _SHORTEST) / (len(targets) - position)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            return _connected(sock, target, now + share, address.host, tls)
        except OSError as failure:
            error = failure
            sock.close()
        except BaseException:  # a greenlet can be killed while it connects
            sock.close()
            raise
    raise error


def _connected(
    sock: socket.socket, target: Any, deadline: float, host: str, tls: ssl.SSLContext | None
) -> socket.socket:
    _connect(sock, target, deadline)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return sock
    sock.settimeout(_left(deadline))
    # A connection that ends without the end of TLS was cut, perhaps by an attacker.
    return tls.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)


def _connect(sock: socket.socket, target: Any, deadline: float) -> None:
    while True:
        sock.settimeout(_left(deadline))
        try:
            return sock.connect(target)
        except BlockingIOError:
            # The backlog of a unix socket is full. For TCP the kernel would wait.
            if time.monotonic() + _BACKLOG_PAUSE > deadline:
                raise
            time.sleep(_BACKLOG_PAUSE)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), _SHORTEST)


def _targets(address: Address) -> list[tuple[int, Any]]:
    if address.scheme == "unix":
        return [(socket.AF_UNIX, address.path)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, target) for family, _, _, _, target in found]
