"""One kept HTTP/1.1 connection: unix, TCP or TLS, every wait bounded by a deadline."""

import socket
import ssl
import struct
import sys
import time
from typing import Any

from mdmw.upstream.address import Address
from mdmw.upstream.response import Response

_BACKLOG_PAUSE = 0.01  # seconds between two looks at a full backlog
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
        if self._in_kernel:
            self._sock.settimeout(None)

    def send(self, request: bytes, read_timeout: float, deadline: float) -> None:
        """Begin an exchange: no read waits longer than `read_timeout`, nothing beyond `deadline`."""
        self._read_timeout = read_timeout
        self._deadline = deadline
        self._bound()
        try:
            self._sock.sendall(request)
        except (BlockingIOError, ssl.SSLWantWriteError):
            raise TimeoutError("the request could not be sent") from None
        except (ConnectionError, ssl.SSLEOFError):
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.recv(1)  # a server of TLS 1.3 that hung up may have said why; that is raised here
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
                raise ConnectionResetError("cut, without a word of TLS") from None
            raise
        if not data:
            response.end()
            return
        response.feed(data)
        if not response.complete and self._sock.family != socket.AF_UNIX:
            # ACK at once: an upstream that writes head and body apart, with Nagle's
            # algorithm on, would otherwise wait 40 ms for it.
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def is_alive(self) -> bool:
        """False when the peer closed, or spoke out of turn, while the connection was idle."""
        try:
            if self._in_kernel and self._sock.family != socket.AF_UNIX:
                # An end of the connection counts as well; and unlike recv this keeps the interpreter lock.
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
            raise TimeoutError("the time for this request is over")
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
    """Connect to the first address of a name that answers; a silent one leaves time for the others."""
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
    # A connection that ends without TLS saying so was cut, perhaps by somebody on the way.
    return tls.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)


def _connect(sock: socket.socket, target: Any, deadline: float) -> None:
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
    return max(deadline - time.monotonic(), _SHORTEST)


def _targets(address: Address) -> list[tuple[int, Any]]:
    if address.scheme == "unix":
        return [(socket.AF_UNIX, address.path)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, target) for family, _, _, _, target in found]
