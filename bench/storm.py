"""A boot storm: many guests, each with an address of its own, each asking one thing after the other.

One process and one epoll loop, because the generator shares the cores with what it measures. Every request
opens a connection, as guests do, and must be answered with 200 and exactly the expected body.
"""

import argparse
import collections
import gc
import json
import select
import socket
import time
from pathlib import Path

from bench.figures import percentile

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: choose the port at connect, when the whole 4-tuple is known
_RECEIVE = 1 << 16
_STATUS = b"HTTP/1.1 200 "


class Guest:
    """One booting guest: where it asks from, what is left to ask, and the request under way."""

    __slots__ = ("address", "began", "connection", "left", "received")

    def __init__(self, address: str, requests: int) -> None:
        self.address = (address, 0)
        self.left = requests
        self.connection: socket.socket | None = None
        self.received = b""
        self.began = 0.0


class Storm:
    """All guests of one storm, until each has asked everything or the time is up."""

    def __init__(self, server: tuple[str, int], target: str, expected: bytes, think: float) -> None:
        self._server = server
        self._request = f"GET {target} HTTP/1.1\r\nHost: {server[0]}\r\nAccept: */*\r\n\r\n".encode()
        self._expected = expected
        self._think = think
        self._epoll = select.epoll()
        self._asking: dict[int, Guest] = {}
        self._thinking: collections.deque[tuple[float, Guest]] = collections.deque()  # the longest first
        self.latencies: list[float] = []
        self.errors: collections.Counter[str] = collections.Counter()

    def run(self, guests: list[Guest], time_limit: float) -> float:
        """Let all guests boot; the wall time in seconds. What is open at `time_limit` is an error."""
        began = time.perf_counter()
        for guest in guests:
            self._ask(guest)
        while self._asking or self._thinking:
            now = time.perf_counter()
            if now - began > time_limit:
                self._give_up()
                break
            while self._thinking and self._thinking[0][0] <= now:
                self._ask(self._thinking.popleft()[1])
            for descriptor, events in self._epoll.poll(self._wait()):
                self._go_on(self._asking[descriptor], events)
        return time.perf_counter() - began

    def _wait(self) -> float:
        """Until the next guest has thought, at most a second; epoll rounds up to milliseconds."""
        if not self._thinking:
            return 1.0
        return max(0.0, self._thinking[0][0] - time.perf_counter())

    def _ask(self, guest: Guest) -> None:
        guest.received = b""
        guest.left -= 1
        guest.began = time.perf_counter()
        guest.connection = connection = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self._asking[connection.fileno()] = guest
        try:
            connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind(guest.address)
            connection.connect_ex(self._server)
            try:
                connection.send(self._request)  # on one machine the handshake is over by now
                events = select.EPOLLIN
            except BlockingIOError:
                events = select.EPOLLOUT
            self._epoll.register(connection.fileno(), events)
        except OSError as error:
            self._finish(guest, type(error).__name__)

    def _go_on(self, guest: Guest, events: int) -> None:
        connection = guest.connection
        try:
            if events & select.EPOLLOUT:
                connection.send(self._request)
                self._epoll.modify(connection.fileno(), select.EPOLLIN)
                return
            data = connection.recv(_RECEIVE)
        except OSError as error:
            self._finish(guest, type(error).__name__)
            return
        guest.received += data
        head, _, body = guest.received.partition(b"\r\n\r\n")
        if len(body) >= len(self._expected) or not data:
            self._finish(guest, self._problem(head, body))

    def _problem(self, head: bytes, body: bytes) -> str | None:
        if not head.startswith(_STATUS):
            return f"status {head[9:12].decode('latin-1')}" if head else "closed without an answer"
        return None if body == self._expected else "wrong body"

    def _finish(self, guest: Guest, problem: str | None) -> None:
        now = time.perf_counter()
        del self._asking[guest.connection.fileno()]
        guest.connection.close()
        if problem:
            self.errors[problem] += 1
        else:
            self.latencies.append(now - guest.began)
        if guest.left:
            self._thinking.append((now + self._think, guest))

    def _give_up(self) -> None:
        waiting = list(self._asking.values())
        for guest in (*waiting, *(guest for _, guest in self._thinking)):
            self.errors["time is up"] += guest.left
        for guest in waiting:
            self.errors["time is up"] += 1
            guest.connection.close()


def main() -> None:
    """Run one storm and print its figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description=__doc__)
    parser.add_argument("--server", required=True, help="ADDRESS:PORT")
    parser.add_argument("--target", required=True, help="path to ask for")
    parser.add_argument("--expect", required=True, type=Path, help="file with the expected body")
    parser.add_argument("--addresses", required=True, type=Path, help="file with one guest address per line")
    parser.add_argument("--requests", type=int, default=28, help="per guest")
    parser.add_argument("--think", type=float, default=0.005, help="seconds between two requests of a guest")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds")
    options = parser.parse_args()

    address, _, port = options.server.rpartition(":")
    guests = [Guest(line, options.requests) for line in options.addresses.read_text().split()]
    storm = Storm((address, int(port)), options.target, options.expect.read_bytes(), options.think)
    gc.disable()
    wall = storm.run(guests, options.time_limit)
    print(
        json.dumps(
            {
                "wall": wall,
                "rate": len(storm.latencies) / wall,
                "p50": percentile(storm.latencies, 50),
                "p99": percentile(storm.latencies, 99),
                "errors": storm.errors.total(),
                "problems": storm.errors,
                "cpu": time.process_time(),
            }
        )
    )


if __name__ == "__main__":
    main()
