"""The loads: closed loop, boot storm, and one request at a time. All come from the guests' namespace."""

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figures
from bench.haproxies import AT_ONCE, NOVA_PORT, WAITING
from bench.processes import NotReady
from bench.topology import METADATA_ADDRESS, Topology, inside, within

_WRK_SCRIPT = Path(__file__).with_name("wrk.lua")
_ROOT = Path(__file__).parents[1]
_ANSWER_WITHIN = 20.0


@dataclass(frozen=True)
class Sizes:
    """How much is asked, and how often."""

    starts: int = 3
    rounds: int = 2  # of each start
    connections: int = 64
    warm_up: int = 1  # seconds
    seconds: int = 1  # of the closed loop, in each round
    guests: int = 400
    requests: int = 28  # of each guest
    think: float = 0.005
    storm_limit: float = 60.0
    idle: int = 100


class Loads:
    """The loads of one run, all with the same sizes and the same expected body."""

    def __init__(self, namespaces: Topology, sizes: Sizes, body: Path) -> None:
        self._namespaces = namespaces
        self._sizes = sizes
        self._body = body
        self._expected = body.read_bytes()

    def turns(self) -> list[tuple[str, Callable[[int], Figures]]]:
        """What each path is asked in one round, and what the figures are called."""
        return [("closed_loop", self.closed_loop), ("storm", self.storm), ("idle", self.idle)]

    def warm_up(self, ports: Sequence[int]) -> None:
        """A closed loop on all of `ports` at once: threads start, connections to the upstream are made."""
        commands = [self._wrk(port, self._sizes.warm_up) for port in ports]
        started = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
        for process in started:
            process.wait()

    def closed_loop(self, port: int) -> Figures:
        """As many requests as the path can answer, on a fixed number of connections at a time."""
        return self._generated(self._wrk(port, self._sizes.seconds), self._sizes.seconds + 30)

    def storm(self, port: int) -> Figures:
        """All guests boot at the same moment."""
        sizes = self._sizes
        addresses = self._body.with_name("addresses")
        addresses.write_text("\n".join(self._namespaces.guest_addresses[: sizes.guests]))
        command = [sys.executable, "-m", "bench.storm", "--server", f"{METADATA_ADDRESS}:{port}",
                   "--target", WAITING, "--expect", str(self._body), "--addresses", str(addresses),
                   "--requests", str(sizes.requests), "--think", str(sizes.think),
                   "--time-limit", str(sizes.storm_limit)]  # fmt: skip
        return self._generated(within(self._namespaces.guest, command), sizes.storm_limit + 10)

    def idle(self, port: int) -> Figures:
        """One request at a time through `port` and, alternating, straight to the upstream."""
        took: list[float] = []
        direct: list[float] = []
        wrong = 0
        with inside(self._namespaces.guest):
            for _ in range(self._sizes.idle):
                for times, where in ((direct, NOVA_PORT), (took, port)):
                    began = time.perf_counter()
                    wrong += self._ask(where) != self._expected
                    times.append(time.perf_counter() - began)
        p50 = statistics.median(took)
        return {"p50": p50, "above_direct": p50 - statistics.median(direct), "errors": wrong}

    def check(self, port: int) -> None:
        """Ask once. The answer comes when a worker has loaded; raises `NotReady` when it is not the body."""
        with inside(self._namespaces.guest):
            answer = self._ask(port)
        if answer != self._expected:
            raise NotReady(f"the first answer is {answer[:200]!r}")

    def _ask(self, port: int) -> bytes:
        """The body of a 200 to one request on its own connection; of anything else, all there was."""
        request = f"GET {AT_ONCE} HTTP/1.1\r\nHost: {METADATA_ADDRESS}\r\nConnection: close\r\n\r\n"
        received = b""
        try:
            with socket.create_connection((METADATA_ADDRESS, port), _ANSWER_WITHIN) as client:
                client.sendall(request.encode())
                while data := client.recv(1 << 16):
                    received += data
        except OSError as error:
            return str(error).encode()
        head, _, body = received.partition(b"\r\n\r\n")
        return body if head.startswith(b"HTTP/1.1 200 ") else received

    def _wrk(self, port: int, seconds: int) -> list[str]:
        connections = str(self._sizes.connections)
        url = f"http://{METADATA_ADDRESS}:{port}{AT_ONCE}"
        command = ["wrk", "-t1", "-c", connections, "-d", str(seconds), "-s", str(_WRK_SCRIPT), url]
        return within(self._namespaces.guest, command)

    def _generated(self, command: list[str], limit: float) -> Figures:
        """Run a load generator; its last line of output is the figures."""
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=limit, cwd=_ROOT
        )
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        return figures
