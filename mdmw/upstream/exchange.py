"""One request for one answer, over kept connections to one of several addresses.

Connect errors move on to the next address; a kept connection that turns out to
be dead is replaced once, for GET and HEAD; nothing else is ever sent twice, no
redirect is followed and nothing is read from the environment (S-4).
"""

import http.client
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from mdmw.errors import BackendError, BackendLost, BackendSlow, Unavailable
from mdmw.upstream.address import Address
from mdmw.upstream.connection import Connection
from mdmw.upstream.slots import Slots

LOG = logging.getLogger(__name__)

Headers = list[tuple[str, str]]

#: Bodies up to this many bytes are read whole, so that a slow guest holds no connection (W-17).
BUFFER_LIMIT = 256 * 1024
_CHUNK = 64 * 1024
_SAFE = frozenset({"GET", "HEAD"})
_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, except where it says otherwise."""

    connect_timeout: float = 5.0
    read_timeout: float = 25.0
    total_timeout: float = 28.0
    max_connections: int = 128  # in use at once, per process
    max_waiting: int = 1024  # requests that wait for one of them
    queue_timeout: float = 10.0
    idle_timeout: float = 30.0  # a kept connection older than this is not used again
    cooldown: float = 5.0  # how long an address that failed is asked last


@dataclass(slots=True)
class Answer:
    """What the upstream said. `body` is bytes, or a `Stream` when it is large.

    `length` is the Content-Length to promise: for HEAD the one that was reported,
    None when nobody knows it.
    """

    status: int
    reason: str
    headers: Headers
    body: "bytes | Stream"
    length: int | None

    def read(self, limit: int) -> bytes:
        """Up to `limit` bytes of the body; the rest is given up."""
        try:
            return next(iter(self.body), b"")[:limit] if isinstance(self.body, Stream) else self.body[:limit]
        finally:
            self.close()

    def close(self) -> None:
        """Give up what is still to come."""
        if not isinstance(self.body, bytes):
            self.body.close()


class _Stale(Unavailable):
    """The connection ended before any byte of a response."""


class Upstream:
    """The addresses of one service, in order of preference. Thread-safe; connects on first use."""

    def __init__(self, addresses: list[Address], limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self._addresses = addresses
        self._limits = limits
        self._tls = tls
        self._slots = Slots(limits.max_connections, limits.max_waiting)
        self._idle: dict[Address, deque[Connection]] = {address: deque() for address in addresses}
        self._failed_at: dict[Address, float] = {}
        self._lock = threading.Lock()

    def exchange(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Answer:
        """Send one request and return its answer.

        Raises `Overloaded` when no slot becomes free, `Unavailable` when nobody
        answers, `BackendSlow` when the time is over, `BackendError` for an answer
        that is not HTTP, `BackendLost` when a request other than GET and HEAD was
        sent and its answer never came.
        """
        limits = self._limits
        deadline = time.monotonic() + limits.total_timeout
        self._slots.acquire(min(limits.queue_timeout, limits.total_timeout))
        keep_slot = False
        try:
            answer = self._ask(method, target, headers, body, deadline)
            keep_slot = isinstance(answer.body, Stream)
        finally:
            if not keep_slot:
                self._slots.release()
        return answer

    # --- one attempt after the other -----------------------------------------------------

    def _ask(self, method: str, target: str, headers: Headers, body: bytes, deadline: float) -> Answer:
        connection = self._kept() if method in _SAFE else None
        if connection:
            try:
                return self._send(connection, method, target, headers, body, deadline)
            except _Stale as error:
                LOG.debug("a kept connection was dead, trying a new one: %s", error)
        return self._send(self._connect(deadline), method, target, headers, body, deadline)

    def _send(
        self, connection: Connection, method: str, target: str, headers: Headers, body: bytes, deadline: float
    ) -> Answer:
        address = connection.address
        response = None
        try:
            connection.start(self._limits.read_timeout, deadline)
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", address.authority)
            for name, value in headers:
                connection.putheader(name, value)
            if body or method not in _SAFE:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            return self._receive(connection, response, method)
        except TimeoutError as error:
            connection.close()
            raise BackendSlow(f"{address} did not answer in time: {error}") from None
        except (ConnectionError, ssl.SSLEOFError, http.client.IncompleteRead) as error:
            # http.client.RemoteDisconnected is a ConnectionError.
            connection.close()
            problem = f"{address} closed the connection: {_short(error)}"
            if method not in _SAFE:
                raise BackendLost(problem) from None
            begun = response or isinstance(error, http.client.IncompleteRead)
            raise (Unavailable if begun else _Stale)(problem) from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            connection.close()
            raise BackendError(f"{address} answered something that is not HTTP: {_short(error)}") from None
        except BaseException:  # a greenlet can be killed while it waits
            connection.close()
            raise

    def _receive(self, connection: Connection, response: http.client.HTTPResponse, method: str) -> Answer:
        headers = response.getheaders()
        length: int | None = response.length
        if method == "HEAD" or response.status in _BODILESS:
            length = _reported_length(response) if method == "HEAD" else None
            body: bytes | Stream = response.read()
        elif length is not None and length <= BUFFER_LIMIT:
            body = response.read()
        else:
            body = first = _read_up_to(response, BUFFER_LIMIT)
            if not response.isclosed() and (length is None or length > len(first)):
                stream = Stream(self, connection, response, first, length)
                return Answer(response.status, response.reason, headers, stream, length)
            if length is not None and len(first) < length:  # read(n) does not notice
                raise http.client.IncompleteRead(b"", length - len(first))
            length = len(first)
        self._keep(connection, response)
        return Answer(response.status, response.reason, headers, body, length)

    # --- connections ---------------------------------------------------------------------

    def _kept(self) -> Connection | None:
        oldest = time.monotonic() - self._limits.idle_timeout
        while True:
            with self._lock:
                idle = next((kept for address in self._addresses if (kept := self._idle[address])), None)
                if idle is None:
                    return None
                connection = idle.pop()
            if connection.idle_since > oldest and connection.is_alive():
                return connection
            connection.close()

    def _keep(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        if response.will_close or not response.isclosed():
            response.close()
            connection.close()
            return
        connection.idle_since = now = time.monotonic()
        with self._lock:
            idle = self._idle[connection.address]
            idle.append(connection)
            too_many = len(idle) > self._limits.max_connections
            oldest = (
                idle.popleft() if too_many or idle[0].idle_since < now - self._limits.idle_timeout else None
            )
        if oldest:
            oldest.close()

    def _connect(self, deadline: float) -> Connection:
        problems = []
        for address in self._in_order():
            timeout = min(self._limits.connect_timeout, deadline - time.monotonic())
            if timeout <= 0:
                break
            try:
                connection = Connection(address, timeout, self._tls if address.scheme == "https" else None)
            except (OSError, UnicodeError) as error:
                problems.append(f"{address}: {_short(error)}")
                self._failed(address, problems[-1])
            else:
                self._failed_at.pop(address, None)
                return connection
        raise Unavailable("no connection to " + "; ".join(problems or map(str, self._addresses)))

    def _in_order(self) -> list[Address]:
        """As configured, but those that failed a moment ago come last."""
        cooled = time.monotonic() - self._limits.cooldown
        return sorted(self._addresses, key=lambda address: self._failed_at.get(address, 0.0) > cooled)

    def _failed(self, address: Address, problem: str) -> None:
        now = time.monotonic()
        if now - self._failed_at.get(address, -self._limits.cooldown) >= self._limits.cooldown:
            LOG.warning("no connection to %s", problem)
        self._failed_at[address] = now
        with self._lock:
            idle, self._idle[address] = self._idle[address], deque()
        for connection in idle:
            connection.close()

    def _done(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        try:
            self._keep(connection, response)
        finally:
            self._slots.release()


class Stream:
    """A large body on its way; its connection and slot are held until `close`.

    An upstream that is cut in the middle raises `BackendError` out of the
    iteration, so that the server cuts the guest's connection too (W-17).
    """

    def __init__(
        self,
        upstream: Upstream,
        connection: Connection,
        response: http.client.HTTPResponse,
        first: bytes,
        length: int | None,
    ) -> None:
        self._upstream = upstream
        self._connection = connection
        self._response = response
        self._first = first
        self._missing = None if length is None else length - len(first)
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        try:
            while chunk := self._response.read(_CHUNK):
                if self._missing is not None:
                    self._missing -= len(chunk)
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise BackendError(f"{self._connection.address} broke off its body: {_short(error)}") from None
        if self._missing:
            raise BackendError(f"{self._connection.address} broke off its body, {self._missing} bytes early")

    def close(self) -> None:
        """Give connection and slot back; safe to call twice."""
        if self._open:
            self._open = False
            self._upstream._done(self._connection, self._response)


def _read_up_to(response: http.client.HTTPResponse, limit: int) -> bytes:
    parts = []
    size = 0
    while size <= limit and (part := response.read(_CHUNK)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _reported_length(response: http.client.HTTPResponse) -> int | None:
    value = response.getheader("Content-Length")
    return int(value) if value and value.isdigit() else None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
