"""Sends a request to one of several addresses over kept connections, and returns the answer (S-4).

When an address cannot be connected to, the next one is tried. When a kept connection turns out to be dead,
a GET or HEAD is sent again, once. No other request is sent twice, no redirect is followed, and no setting
comes from the environment.
"""

import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mdmw.errors import BackendError, BackendLost, BackendSlow, BadRequest, Overloaded, Unavailable
from mdmw.observe.journal import CONNECTED, FAILOVER, RETRIED, Journal, note
from mdmw.observe.series import NOTED, SLOTS, SLOTS_IN_USE, WAITING, Measurement
from mdmw.upstream.address import Address
from mdmw.upstream.connection import BadResponse, Connection, Cut, Headers, Response


class Slots:
    """At most `size` requests have a slot. At most `max_waiting` requests wait for one, in their order.

    `upstream` is the label of the metrics.
    """

    def __init__(self, size: int, max_waiting: int, upstream: str = "other") -> None:
        self.size = size
        self.upstream = upstream
        self._free = size
        self._max_waiting = max_waiting
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @property
    def in_use(self) -> int:
        """Slots that are taken."""
        return self.size - self._free

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    def measurements(self) -> list[Measurement]:
        """The number of slots, of slots in use, and of requests that wait."""
        label = (self.upstream,)
        return [(SLOTS, label, self.size), (SLOTS_IN_USE, label, self.in_use), (WAITING, label, self.waiting)]

    def acquire(self, timeout: float) -> None:
        """Take a slot; raises `Overloaded` when no slot is free within `timeout` seconds."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"all slots are taken and {self._max_waiting} requests wait already")
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            if turn.acquire(timeout=timeout):
                return
        except BaseException:  # a greenlet can be killed while it waits
            if not self._leave(turn):
                self.release()
            raise
        if self._leave(turn):
            raise Overloaded(f"no slot became free in {timeout:g} s")
        # The slot was handed over at the moment at which the wait ended: this request has it.

    def release(self) -> None:
        """Give the slot to the request that has waited longest, or free it."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    def _leave(self, turn: threading.Lock) -> bool:
        """Leave the queue; False when this request has been given a slot already."""
        with self._lock:
            if turn not in self._waiting:
                return False
            self._waiting.remove(turn)
            return True


LOG = logging.getLogger(__name__)

#: A body of up to this many bytes is read at once, so that a slow guest holds no connection (W-17).
BUFFER_LIMIT = 256 * 1024
_SAFE = frozenset({"GET", "HEAD"})
_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an upstream: seconds, or numbers where a comment says so."""

    connect_timeout: float = 5.0
    read_timeout: float = 25.0
    total_timeout: float = 28.0
    max_connections: int = 128  # number that one process uses at the same time
    max_waiting: int = 1024  # number of requests that wait for a connection
    queue_timeout: float = 10.0
    idle_timeout: float = 30.0  # a kept connection older than this is not used again
    cooldown: float = 5.0  # for so long an address that failed is tried last


@dataclass(slots=True)
class Answer:
    """The answer of an upstream. `body` is bytes, or a `Stream` when it is large.

    `length` is the Content-Length for the guest: for HEAD the one of the upstream, None when it is unknown.
    """

    status: int
    reason: str
    headers: Headers
    body: "bytes | Stream"
    length: int | None

    def read(self, limit: int) -> bytes:
        """The first bytes of the body, `limit` at most. The rest is not read."""
        try:
            return next(iter(self.body), b"")[:limit] if isinstance(self.body, Stream) else self.body[:limit]
        finally:
            self.close()

    def close(self) -> None:
        """Do not read the rest of the body."""
        if not isinstance(self.body, bytes):
            self.body.close()


class _Stale(Unavailable):
    """The connection ended before any byte of a response."""


class Upstream:
    """A service with several addresses, in order of preference. Thread-safe; connects on first use.

    `name` is the label of the service in the metrics.
    """

    def __init__(
        self,
        addresses: list[Address],
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        name: str = "other",
        certificates: Sequence[Measurement] = (),
    ) -> None:
        self._addresses = addresses
        self._limits = limits
        self._tls = tls
        self._slots = Slots(limits.max_connections, limits.max_waiting, name)
        self._idle: dict[Address, deque[Connection]] = {address: deque() for address in addresses}
        self._failed_at: dict[Address, float] = {}
        self._lock = threading.Lock()
        self._certificates = certificates
        self._unnoted = dict.fromkeys((CONNECTED, FAILOVER, RETRIED), 0)  # what no journal tells of

    def measurements(self) -> Iterator[Measurement]:
        """Slots, certificates, and the connections that were made without a journal."""
        yield from self._slots.measurements()
        yield from self._certificates
        yield from ((NOTED[what], (), number) for what, number in self._unnoted.items())

    def deadline(self) -> float:
        """The time at which a request that begins now must have ended, on the clock of `time.monotonic`."""
        return time.monotonic() + self._limits.total_timeout

    def exchange(
        self,
        method: str,
        target: str,
        headers: Headers,
        body: bytes = b"",
        deadline: float | None = None,
        journal: Journal | None = None,
    ) -> Answer:
        """Send one request and return its answer. `deadline` is on the clock of `time.monotonic`.

        Raises `Overloaded` when no slot becomes free, `Unavailable` when no address answers, `BackendSlow`
        when the time has ended, `BackendError` for an answer that is not HTTP, and `BackendLost` when a
        request other than GET and HEAD was sent and its answer did not come.
        """
        deadline = deadline or self.deadline()
        self._slots.acquire(min(self._limits.queue_timeout, max(deadline - time.monotonic(), 0)))
        keep_slot = False
        try:
            answer = self._ask(method, target, headers, body, deadline, journal)
            keep_slot = isinstance(answer.body, Stream)
        finally:
            if not keep_slot:
                self._slots.release()
        return answer

    def check(self) -> str:
        """Connect as for a request, and say which address accepted; raises `Unavailable`."""
        connection = self._connect(self.deadline(), None)
        connection.close()
        return f"{connection.address} accepts connections"

    def close(self) -> None:
        """Close the idle connections. No connection may be in use."""
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    # --- one attempt after the other -----------------------------------------------------

    def _ask(
        self,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        deadline: float,
        journal: Journal | None,
    ) -> Answer:
        connection = self._kept() if method in _SAFE else None
        if connection:
            try:
                return self._send(connection, method, target, headers, body, deadline)
            except _Stale as error:
                LOG.debug("a kept connection was dead; the request is sent over a new one: %s", error)
                self._note(journal, RETRIED)
        return self._send(self._connect(deadline, journal), method, target, headers, body, deadline)

    def _send(
        self, connection: Connection, method: str, target: str, headers: Headers, body: bytes, deadline: float
    ) -> Answer:
        address = connection.address
        response = Response(to_head=method == "HEAD")
        try:
            request = _serialise(method, target, address.authority, headers, body)
            connection.send(request, self._limits.read_timeout, deadline)
            while not response.complete and response.received <= BUFFER_LIMIT:
                connection.receive(response)
        except TimeoutError as error:
            connection.close()
            raise BackendSlow(f"{address} did not answer in time: {error}") from None
        except (ConnectionError, ssl.SSLEOFError, Cut) as error:
            connection.close()
            problem = f"{address} closed the connection: {_short(error)}"
            if method not in _SAFE:
                raise BackendLost(problem) from None
            raise (Unavailable if response.started else _Stale)(problem) from None
        except ssl.SSLError as error:
            connection.close()
            problem = f"{address} ended the TLS session: {_short(error)}"
            # Before any answer: a server of TLS 1.3 refuses a client's certificate like this.
            raise (BackendError if response.started else Unavailable)(problem) from None
        except (BadResponse, OSError) as error:
            connection.close()
            raise BackendError(f"{address} answered something that is not HTTP: {_short(error)}") from None
        except BaseException:  # a greenlet can be killed while it waits
            connection.close()
            raise
        return self._answer(connection, response, method)

    def _answer(self, connection: Connection, response: Response, method: str) -> Answer:
        if response.complete:
            self._keep(connection, response)
            whole = response.take()
            length = response.length if method == "HEAD" else len(whole)
            if response.status in _BODILESS:
                length = None
            return Answer(response.status, response.reason, response.headers, whole, length)
        stream = Stream(self, connection, response)
        return Answer(response.status, response.reason, response.headers, stream, response.length)

    # --- connections ---------------------------------------------------------------------

    def _kept(self) -> Connection | None:
        oldest = time.monotonic() - self._limits.idle_timeout
        while True:
            with self._lock:
                for idle in self._idle.values():  # in order of preference
                    if idle:
                        connection = idle.pop()
                        break
                else:
                    return None
            if connection.idle_since > oldest and connection.is_alive():
                return connection
            connection.close()

    def _keep(self, connection: Connection, response: Response) -> None:
        if not response.reusable:
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

    def _connect(self, deadline: float, journal: Journal | None) -> Connection:
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
                self._note(journal, FAILOVER)
            else:
                self._failed_at.pop(address, None)
                self._note(journal, CONNECTED)
                return connection
        raise Unavailable("no connection to " + "; ".join(problems or map(str, self._addresses)))

    def _note(self, journal: Journal | None, what: str) -> None:
        note(journal, what)
        if journal is None:
            with self._lock:
                self._unnoted[what] += 1

    def _in_order(self) -> list[Address]:
        """The addresses as configured; addresses that failed a moment ago come last."""
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

    def _done(self, connection: Connection, response: Response) -> None:
        try:
            self._keep(connection, response)
        finally:
            self._slots.release()


class Stream:
    """A large body that is still arriving. It holds its connection and its slot until `close`.

    When the upstream's connection is cut, iteration raises `BackendError`, so that the server cuts the
    guest's connection too (W-17).
    """

    def __init__(self, upstream: Upstream, connection: Connection, response: Response) -> None:
        self._upstream = upstream
        self._connection = connection
        self._response = response
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        response = self._response
        yield response.take()
        while not response.complete:
            try:
                self._connection.receive(response)
            except (OSError, Cut, BadResponse) as error:
                raise BackendError(
                    f"{self._connection.address} broke off its body: {_short(error)}"
                ) from None
            if part := response.take():
                yield part

    def close(self) -> None:
        """Give the connection and the slot back. A second call does nothing."""
        if self._open:
            self._open = False
            self._upstream._done(self._connection, self._response)


def _serialise(method: str, target: str, authority: str, headers: Headers, body: bytes) -> bytes:
    """The bytes of a request, with the target unchanged (W-7)."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {authority}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body or method not in _SAFE:
        lines.append(f"Content-Length: {len(body)}")
    text = "\r\n".join(lines)
    # The filters refuse control characters. One line too many here means that a filter failed to.
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise BadRequest("a line break in the request line or in a header")
    return f"{text}\r\n\r\n".encode("latin-1") + body


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
