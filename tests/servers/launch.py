"""How each server is started, by configuration file or by the command line of doc/servers.rst.

`SERVERS` is the table: name -> a function from pipeline, listeners and workers to a `Launch`.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ETC = Path(__file__).parents[2] / "etc"
GUNICORN_CONF = ETC / "gunicorn.conf.py"
UWSGI_INI = ETC / "uwsgi.ini"

WORKERS = 2


@dataclass(frozen=True)
class Listener:
    """Where a server listens: a unix socket, or an address and a port."""

    path: Path | None = None
    address: str = ""
    port: int = 0

    def __str__(self) -> str:
        return str(self.path) if self.path else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Launch:
    """A command, and what its environment needs beside MDMW_PASTE_INI."""

    command: list[str]
    environ: dict[str, str] = field(default_factory=dict)


def gunicorn(worker_class: str, pipeline: str, listeners: Sequence[Listener], workers: int) -> Launch:
    command = [_script("gunicorn"), "--config", str(GUNICORN_CONF)]
    for listener in listeners:
        command += ["--bind", f"unix:{listener}" if listener.path else str(listener)]
    command += ["-k", worker_class] if worker_class != "gthread" else []
    return Launch(command, {"MDMW_PIPELINE": pipeline, "MDMW_WORKERS": str(workers)})


def gunicorn_gthread(pipeline: str, listeners: Sequence[Listener], workers: int = WORKERS) -> Launch:
    return gunicorn("gthread", pipeline, listeners, workers)


def gunicorn_gevent(pipeline: str, listeners: Sequence[Listener], workers: int = WORKERS) -> Launch:
    return gunicorn("gevent", pipeline, listeners, workers)


def uwsgi(pipeline: str, listeners: Sequence[Listener], workers: int = WORKERS) -> Launch:
    command = [_script("uwsgi"), "--ini", str(UWSGI_INI)]
    for listener in listeners:
        command += ["--http-socket", str(listener)]
    return Launch([*command, "--module", f"mdmw.wsgi.{pipeline}", "--processes", str(workers)])


def waitress(pipeline: str, listeners: Sequence[Listener], workers: int = 1) -> Launch:
    """One process, whatever `workers` says."""
    command = [_script("waitress-serve")]
    for listener in listeners:
        command += [f"--unix-socket={listener}", "--unix-socket-perms=660"] if listener.path else []
        command += [] if listener.path else [f"--listen={listener}"]
    command += ["--threads=400", "--backlog=4096", "--connection-limit=1000", "--asyncore-use-poll"]
    command += ["--channel-timeout=30", "--cleanup-interval=5", "--max-request-header-size=65536"]
    # By itself it drops X-Forwarded-For, by which the agent knows who asks; mdmw removes what guests forge.
    command += ["--max-request-body-size=131072", "--no-clear-untrusted-proxy-headers"]
    return Launch([*command, f"mdmw.wsgi.{pipeline}:application"])


def granian(pipeline: str, listeners: Sequence[Listener], workers: int = WORKERS) -> Launch:
    """One listener; it has no option for more."""
    (listener,) = listeners
    command = [_script("granian"), "--interface", "wsgi", "--http", "1", "--no-ws"]
    if listener.path:
        command += ["--uds", str(listener), "--uds-permissions", "0o660"]
    else:
        command += ["--host", listener.address, "--port", str(listener.port)]
    command += ["--workers", str(workers), "--blocking-threads", "200", "--backlog", "4096"]
    command += ["--backpressure", "400", "--http1-buffer-size", "65536"]
    command += ["--http1-header-read-timeout", "30000"]
    return Launch([*command, f"mdmw.wsgi.{pipeline}:application"])


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


#: waitress has one process, granian one listener.
SERVERS: dict[str, Callable[..., Launch]] = {
    "gunicorn-gthread": gunicorn_gthread,
    "gunicorn-gevent": gunicorn_gevent,
    "uwsgi": uwsgi,
    "waitress": waitress,
    "granian": granian,
}
