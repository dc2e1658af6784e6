"""One kept HTTP/1.1 connection: unix, TCP or TLS, every wait bounded by a deadline."""

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Iterator

from mdmw.upstream.address import Address


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


class Connection(http.client.HTTPConnection):
    """An open connection to one address.

    The target goes out byte for byte: nothing is normalised or encoded, and what
    must not be in a target was refused before (W-7).
    """

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
    deadline = time.monotonic() + timeout
    error: OSError = OSError(f"{address} has no address")
    for family, target in _targets(address):
        sock = _Socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            sock.connect(target)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is None:
                return sock
            tls.sslsocket_class = _TLSSocket
            return tls.wrap_socket(sock, server_hostname=address.host)  # type: ignore[return-value]
        except OSError as failure:
            error = failure
            with contextlib.suppress(OSError):
                sock.close()
    raise error


def _targets(address: Address) -> Iterator[tuple[int, str | tuple[object, ...]]]:
    if address.scheme == "unix":
        yield socket.AF_UNIX, address.path
        return
    for family, _, _, _, target in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        yield family, target
