"""How each WSGI server is started: one function per server, from application and listener to a command."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WORKERS = 2
_BACKLOG = "4096"
_THREADS = "100"  # per worker; 200 wait for the interpreter lock more than for Nova
_CONNECTIONS = "1000"
_HEADERS = "49152"  # spec W-9: 8 KiB request line and 32 KiB headers


@dataclass(frozen=True)
class Listener:
    """Where a server listens: a unix socket, or an address and a port."""

    path: Path | None = None
    address: str = ""
    port: int = 0

    def __str__(self) -> str:
        return str(self.path) if self.path else f"{self.address}:{self.port}"


def _gunicorn(application: str, listener: Listener, *worker: str) -> list[str]:
    bind = f"unix:{listener}" if listener.path else str(listener)
    return [sys.executable, "-m", "gunicorn", "--bind", bind, "--backlog", _BACKLOG,
            "--workers", str(WORKERS), "--worker-connections", _CONNECTIONS, "--no-control-socket",
            *worker, application]  # fmt: skip


def _gthread(application: str, listener: Listener) -> list[str]:
    return _gunicorn(application, listener, "--worker-class", "gthread", "--threads", _THREADS)


def _gevent(application: str, listener: Listener) -> list[str]:
    return _gunicorn(application, listener, "--worker-class", "gevent")


def _uwsgi(application: str, listener: Listener) -> list[str]:
    # It closes after each answer; without the header a client cannot know, and sends into a closed socket.
    return [str(Path(sys.executable).with_name("uwsgi")), "--http-socket", str(listener),
            "--listen", _BACKLOG, "--master", "--thunder-lock", "--processes", str(WORKERS),
            "--threads", _THREADS, "--buffer-size", _HEADERS, "--add-header", "Connection: close",
            "--need-app", "--die-on-term", "--disable-logging", "--module", application]  # fmt: skip


def _waitress(application: str, listener: Listener) -> list[str]:
    # By itself it drops X-Forwarded-For, by which the agent knows who asks; mdmw removes what guests forge.
    where = f"--unix-socket={listener}" if listener.path else f"--listen={listener}"
    return [sys.executable, "-m", "waitress", where, f"--threads={_THREADS}", f"--backlog={_BACKLOG}",
            f"--connection-limit={_CONNECTIONS}", "--no-clear-untrusted-proxy-headers",
            application]  # fmt: skip


def _granian(application: str, listener: Listener) -> list[str]:
    where = ["--host", listener.address, "--port", str(listener.port)]
    if listener.path:
        where = ["--uds", str(listener)]
    return [sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", *where,
            "--workers", str(WORKERS), "--blocking-threads", _THREADS, "--backlog", _BACKLOG,
            "--backpressure", _THREADS, "--no-ws", application]  # fmt: skip


#: Name in the table -> command. waitress has one process, all others have `WORKERS`.
SERVERS: dict[str, Callable[[str, Listener], list[str]]] = {
    "gunicorn gthread": _gthread,
    "gunicorn gevent": _gevent,
    "uWSGI": _uwsgi,
    "waitress": _waitress,
    "granian": _granian,
}
