"""The loads: closed loop, boot storm, and one request at a time. All come from the guests' namespace."""

import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import percentile
from bench.haproxies import AT_ONCE, WAITING
from bench.processes import NotReady
from bench.topology import METADATA_ADDRESS, Topology, inside, within

_WRK_SCRIPT = Path(__file__).with_name("wrk.lua")
_ROOT = Path(__file__).parents[1]
_ANSWER_WITHIN = 20.0
Figures = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is asked."""

    connections: int = 64
    warm_up: int = 1  # seconds
    seconds: int = 5
    guests: int = 400
    requests: int = 28  # of each guest
    think: float = 0.005
    storm_limit: float = 60.0
    idle: int = 200


class Loads:
    """The loads of one run, all with the same sizes and the same expected body."""

    def __init__(self, namespaces: Topology, sizes: Sizes, body: Path) -> None:
        self._namespaces = namespaces
        self._sizes = sizes
        self._body = body
        self._expected = body.read_bytes()

    def closed_loop(self, port: int) -> Figures:
        """As many requests as the path can answer, on a fixed number of connections at a time."""
        self._wrk(port, self._sizes.warm_up)
        return self._wrk(port, self._sizes.seconds)

    def storm(self, port: int) -> Figures:
        """All guests boot at the same moment."""
        sizes = self._sizes
        addresses = self._body.with_name("addresses")
        addresses.write_text("\n".join(self._namespaces.guest_addresses[: sizes.guests]))
        command = [sys.executable, "-m", "bench.storm", "--server", f"{METADATA_ADDRESS}:{port}",
                   "--target", WAITING, "--expect", str(self._body), "--addresses", str(addresses),
                   "--requests", str(sizes.requests), "--think", str(sizes.think),
                   "--time-limit", str(sizes.storm_limit)]  # fmt: skip
        return self._in_guest(command, sizes.storm_limit + 10)

    def idle(self, port: int, reference: int) -> Figures:
        """One request at a time through `port` and, alternating, straight to the upstream on `reference`."""
        took: list[float] = []
        direct: list[float] = []
        wrong = 0
        with inside(self._namespaces.guest):
            for _ in range(self._sizes.idle):
                for times, where in ((direct, reference), (took, port)):
                    began = time.perf_counter()
                    wrong += self._ask(where) != self._expected
                    times.append(time.perf_counter() - began)
        p50, direct_p50 = percentile(took, 50), percentile(direct, 50)
        return {"p50": p50, "above_direct": p50 - direct_p50, "errors": wrong}

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

    def _wrk(self, port: int, seconds: int) -> Figures:
        connections = str(self._sizes.connections)
        url = f"http://{METADATA_ADDRESS}:{port}{AT_ONCE}"
        command = ["wrk", "-t1", "-c", connections, "-d", str(seconds), "-s", str(_WRK_SCRIPT), url]
        return self._in_guest(command, seconds + 30)

    def _in_guest(self, command: list[str], limit: float) -> Figures:
        """Run a load generator; its last line of output is the figures."""
        command = within(self._namespaces.guest, command)
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=limit, cwd=_ROOT
        )
        return json.loads(done.stdout.splitlines()[-1])
