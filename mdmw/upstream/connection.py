"""One kept HTTP/1.1 connection: unix, TCP or TLS, every wait bounded by a deadline."""

import http.client
import socket
import ssl
import time
from typing import Any

from mdmw.upstream.address import Address

_BACKLOG_PAUSE = 0.01  # seconds between two looks at a full backlog


class _Clock:
    """How long a socket may wait: `read_timeout` for each read, `deadline` for them all."""

    read_timeout = 0.0
    deadline = 0.0

    def remaining(self) -> float:
        left = min(self.read_timeout, self.deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("the time for this request is over")
        return left


class _Socket(socket.socket):
    """A socket whose every read is bounded by its clock, so that a dripping peer gains nothing."""

    clock: _Clock

    def recv_into(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.settimeout(self.clock.remaining())
        return super().recv_into(*args, **kwargs)


class _TLSSocket(ssl.SSLSocket):
    """The same for TLS."""

    clock: _Clock

    def recv_into(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.settimeout(self.clock.remaining())
        return super().recv_into(*args, **kwargs)


class _Response(http.client.HTTPResponse):
    """A response whose head must be complete, and whose interim answers are skipped."""

    def begin(self) -> None:
        """Read the head; an end of the connection in it is an error.

        http.client would take it for the end of the headers: 200, and no body.
        """
        reader = self.fp
        self.fp = _Head(reader)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            self.fp = reader

    def _read_status(self) -> tuple[str, int, str]:
        """The status line of the final answer; one of 1xx may come at any time (RFC 9110, 15.2)."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Head:
    """Reads the lines of a head; raises when the connection ends before the last one."""

    def __init__(self, reader: Any) -> None:
        self._readline = reader.readline
        self.close = reader.close
        self._begun = False

    def readline(self, limit: int) -> bytes:
        line: bytes = self._readline(limit)
        if line.endswith(b"\n") or len(line) == limit:
            self._begun = True
            return line
        if line or self._begun:
            raise http.client.IncompleteRead(line)
        raise http.client.RemoteDisconnected("without an answer")


class Connection(http.client.HTTPConnection):
    """An open connection to one address.

    The target goes out byte for byte: nothing is normalised or encoded, and what
    must not be in a target was refused before (W-7).
    """

    response_class = _Response

    def __init__(self, address: Address, connect_timeout: float, tls: ssl.SSLContext | None) -> None:
        """Connect; raises OSError (also for DNS and TLS) when no address answers in time."""
        super().__init__(address.authority.rpartition(":")[0] or "localhost", 80)
        self.address = address
        self.reused = False
        self.idle_since = 0.0
        self._clock = _Clock()
        self.sock = _open(address, connect_timeout, tls)
        self.sock.clock = self._clock

    def start(self, read_timeout: float, deadline: float) -> None:
        """Begin an exchange: no read waits longer than `read_timeout`, nothing beyond `deadline`."""
        self._clock.read_timeout = read_timeout
        self._clock.deadline = deadline
        self.sock.settimeout(self._clock.remaining())

    def getresponse(self) -> http.client.HTTPResponse:
        """The head of the response.

        ACKs at once: an upstream that writes head and body apart, with Nagle's
        algorithm on, would otherwise wait 40 ms for ours.
        """
        if self.address.scheme != "unix":
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return super().getresponse()

    def is_alive(self) -> bool:
        """False when the peer closed, or spoke out of turn, while the connection was idle."""
        self.sock.settimeout(0)
        try:
            self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def connect(self) -> None:
        """http.client would connect again by itself; a request here has one connection."""
        raise http.client.NotConnected

    def _validate_path(self, url: str) -> None:
        """http.client refuses some targets; ours is checked, and passes as it is."""

    def _encode_request(self, request: str) -> bytes:
        return request.encode("latin-1")


def _open(address: Address, timeout: float, tls: ssl.SSLContext | None) -> _Socket | _TLSSocket:
    """Connect to the first address of a name that answers; a silent one leaves time for the others."""
    deadline = time.monotonic() + timeout
    error: OSError = OSError(f"{address} has no address")
    targets = _targets(address)
    for position, (family, target) in enumerate(targets):
        now = time.monotonic()
        share = max(deadline - now, 0.001) / (len(targets) - position)
        sock = _Socket(family, socket.SOCK_STREAM)
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
    sock: _Socket, target: Any, deadline: float, host: str, tls: ssl.SSLContext | None
) -> _Socket | _TLSSocket:
    _connect(sock, target, deadline)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return sock
    sock.settimeout(_left(deadline))
    tls.sslsocket_class = _TLSSocket
    # A connection that ends without TLS saying so was cut, perhaps by somebody on the way.
    return tls.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)  # type: ignore[return-value]


def _connect(sock: _Socket, target: Any, deadline: float) -> None:
    while True:
        sock.settimeout(_left(deadline))
        try:
            return sock.connect(target)
        except BlockingIOError:
            # The backlog of a unix socket is full. With TCP the kernel would wait.
            if time.monotonic() + _BACKLOG_PAUSE > deadline:
                raise
            time.sleep(_BACKLOG_PAUSE)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _targets(address: Address) -> list[tuple[int, Any]]:
    if address.scheme == "unix":
        return [(socket.AF_UNIX, address.path)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, target) for family, _, _, _, target in found]
