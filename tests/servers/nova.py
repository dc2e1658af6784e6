"""A scripted Nova on a unix socket: it keeps every request byte for byte, and answers as told.

It stands for the agent too: what a proxy sends to it is kept in the same way.
"""

import contextlib
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"


@dataclass(frozen=True)
class Recorded:
    """One request as it came over the socket."""

    line: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def target(self) -> bytes:
        return self.line.split(b" ", 1)[1].rpartition(b" ")[0]

    def all(self, name: str) -> list[str]:
        return [
            value.decode("latin-1") for key, value in self.headers if key.decode().lower() == name.lower()
        ]


#: The bytes of a whole response; or a function from the request to them. b"" closes without an answer.
#: A response without a length, or with `Connection: close` or a length not met, must be marked with `Cut`.
Script = bytes | Callable[[Recorded], bytes]


class Cut(bytes):
    """A response after which the connection is closed."""


class Nova:
    """Start it with `with`. `answers` is by raw target, what is not there gets `echo`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[Recorded] = []
        self.answers: dict[bytes, Script] = {}
        self.delay = 0.0
        self._server = _Server(str(path), _Handler)
        self._server.nova = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> "Nova":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reset(self) -> None:
        self.requests = []
        self.answers = {}
        self.delay = 0.0

    def only(self) -> Recorded:
        """The one request since `reset`."""
        assert len(self.requests) == 1, f"{len(self.requests)} requests came instead of one: {self.requests}"
        return self.requests[0]

    def answer(self, request: Recorded) -> bytes:
        script = self.answers.get(request.target)
        if script is None:
            return echo(request)
        return script if isinstance(script, bytes) else script(request)


def echo(request: Recorded) -> bytes:
    """The target and who asked, so that a guest knows its own answer from another's."""
    body = request.target + b" for " + asker(request)
    return OK % (len(body), b"" if request.line.startswith(b"HEAD ") else body)


def asker(request: Recorded) -> bytes:
    """Instance and address as Nova is told, or network and address as the agent is."""
    ids = request.all("X-Instance-ID") + request.all("X-Neutron-Network-ID")
    return " ".join(ids + request.all("X-Forwarded-For")).encode("latin-1")


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 1024
    nova: Nova


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    timeout = 60

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while (request := self._read()) and self._answer(request):
                pass

    def _read(self) -> Recorded | None:
        line = self.rfile.readline()
        if not line:
            return None
        headers = []
        while (header := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = header.removesuffix(b"\r\n").partition(b": ")
            headers.append((name, value))
        length = next((int(value) for name, value in headers if name.lower() == b"content-length"), 0)
        return Recorded(line.removesuffix(b"\r\n"), tuple(headers), self.rfile.read(length))

    def _answer(self, request: Recorded) -> bool:
        nova = self.server.nova
        nova.requests.append(request)
        if nova.delay:
            time.sleep(nova.delay)
        response = nova.answer(request)
        self.wfile.write(response)
        return bool(response) and not isinstance(response, Cut)
