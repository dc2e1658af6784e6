"""A started server, and requests to it as its callers make them."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .client import Connection, Headers, Reply, request
from .launch import Launch, Listener
from .namespace import Namespace
from .pipelines import ADA, Guest, relay_signature
from .traits import Traits

READY_WITHIN = 60.0
STOP_WITHIN = 10.0


@dataclass(frozen=True)
class Configuration:
    """One of the thirty."""

    server: str
    transport: str
    pipeline: str

    def __str__(self) -> str:
        return f"{self.server}-{self.transport}-{self.pipeline}"


@dataclass(frozen=True)
class Running:
    """The way to a server that is up. `listeners[0]` is the one that tests use."""

    configuration: Configuration
    traits: Traits
    listeners: tuple[Listener, ...]
    namespace: Namespace | None
    log: Path

    @property
    def pipeline(self) -> str:
        return self.configuration.pipeline

    @property
    def is_relay_target(self) -> bool:
        """Whether the callers are proxies, who say for whom they ask."""
        return self.pipeline == "agent"

    @property
    def is_signed(self) -> bool:
        """Whether a relay must sign: on TCP, and where the server may swap one spelling for another."""
        return self.configuration.transport == "tcp" or not self.traits.keeps_names_apart

    def connect(self, guest: Guest | str = ADA, listener: Listener | None = None) -> Connection:
        """A connection as this guest makes it; or as its proxy does."""
        address = guest if isinstance(guest, str) else guest.address
        source = None if self.is_relay_target else address
        return Connection(connected(listener or self.listeners[0], self.namespace, source))

    def identity(self, guest: Guest, method: str, target: str) -> Headers:
        """What the caller adds to say who asks: nothing, unless it is a proxy."""
        if not self.is_relay_target:
            return []
        headers = guest.to_agent()
        if self.is_signed:
            headers.append(relay_signature(guest, method, target))
        return headers

    def compose(
        self,
        target: str = "/",
        method: str = "GET",
        headers: Headers = (),
        body: bytes = b"",
        guest: Guest = ADA,
        close: bool = True,
    ) -> bytes:
        """A request of this guest, with Host and identity; `Connection: close` unless told otherwise."""
        fixed = [("Host", "169.254.169.254"), *self.identity(guest, method, target)]
        if close and not any(name.lower() == "connection" for name, _ in headers):
            fixed.append(("Connection", "close"))
        if body and not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in headers):
            fixed.append(("Content-Length", str(len(body))))
        return request(method, target, [*fixed, *headers], body)

    def ask(
        self,
        target: str = "/",
        method: str = "GET",
        headers: Headers = (),
        body: bytes = b"",
        guest: Guest = ADA,
    ) -> Reply:
        """One request on a connection of its own."""
        with self.connect(guest) as connection:
            connection.send(self.compose(target, method, headers, body, guest))
            return connection.reply(method)

    def expected(self, guest: Guest = ADA) -> list[tuple[str, str]]:
        """The identity headers that must leave for Nova, or for the agent."""
        return guest.to_agent() if self.pipeline == "proxy" else guest.to_nova()


def connected(listener: Listener, namespace: Namespace | None, source: str | None = None) -> socket.socket:
    """A connected socket; in the namespace, and from `source`, when it is TCP."""
    if listener.path:
        sock = socket.socket(socket.AF_UNIX)
        target: object = str(listener.path)
    else:
        assert namespace
        sock = namespace.socket(socket.AF_INET)
        target = (listener.address, listener.port)
    try:
        sock.settimeout(5)
        if source and not listener.path:
            sock.bind((source, 0))
        sock.connect(target)
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def started(
    launch: Launch,
    ini: Path,
    listeners: tuple[Listener, ...],
    namespace: Namespace | None,
    log: Path,
    pass_fds: tuple[int, ...] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server until the block ends; it is up when it answers on its first listener."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("MDMW_", "PYTEST_"))}
    environ |= {"MDMW_PASTE_INI": str(ini), **launch.environ}
    command = [*(namespace.command if namespace else []), *launch.command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ini.parent,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, listeners[0], namespace, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # granian, told to stop while its workers start, can leave one behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_ready(
    process: subprocess.Popen[bytes], listener: Listener, namespace: Namespace | None, log: Path
) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        try:
            with Connection(connected(listener, namespace)) as connection:
                connection.send(b"GET /ready HTTP/1.1\r\nHost: ready\r\nConnection: close\r\n\r\n")
                if _answers(connection, process, deadline):
                    return
        except OSError:
            pass
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}:\n{log.read_text()}")
        time.sleep(0.02)  # the interval of the loop, which ends with the first answer
    raise AssertionError(f"no answer on {listener} in {READY_WITHIN} s:\n{log.read_text()}")


def _answers(connection: Connection, process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait for the first bytes as long as the server lives: a master may listen before it has workers."""
    connection.sock.settimeout(0.5)
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            return connection.sock.recv(5) == b"HTTP/"
    return False
