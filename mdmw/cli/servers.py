"""How each WSGI server is started with a pipeline: one command line per server.

The same as in doc/servers.rst; the tests of the servers and the benchmark start them from here.
"""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mdmw.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run where. `binds` are `unix:/path`, `host:port`, or `fd://N` for gunicorn.

    Without `workers` (processes) and `threads` (of each) the server's own file or line decides.
    """

    module: str
    binds: tuple[str, ...]
    workers: int | None = None
    threads: int | None = None


def command(server: str, launch: Launch) -> list[str]:
    """The command line of `server`; `ConfigError` when it is missing or cannot bind so."""
    return SERVERS[server](launch)


def _gunicorn(launch: Launch) -> list[str]:
    return _with_gunicorn(launch, "gthread", "gunicorn")


def _gunicorn_gevent(launch: Launch) -> list[str]:
    return _with_gunicorn(launch, "gevent", "gevent")


def _with_gunicorn(launch: Launch, worker_class: str, extra: str) -> list[str]:
    _need("gunicorn", extra)
    _need(extra, extra)
    return [
        *(sys.executable, "-m", "gunicorn", "--config", _shipped("gunicorn.conf.py")),
        *("--worker-class", worker_class),
        *_numbers(launch, "--workers", "--threads"),
        *_repeated("--bind", launch.binds),
        f"{launch.module}:application",
    ]


def _uwsgi(launch: Launch) -> list[str]:
    beside = Path(sys.executable).with_name("uwsgi")
    program = str(beside) if beside.exists() else shutil.which("uwsgi")
    if not program:
        raise ConfigError("server 'uwsgi' is not installed; pip install 'mdmw[uwsgi]'")
    binds = [_no_fd(bind, "uwsgi").removeprefix("unix:") for bind in launch.binds]
    return [
        *(program, "--ini", _shipped("uwsgi.ini"), "--module", launch.module),
        *_numbers(launch, "--processes", "--threads"),
        *_repeated("--http-socket", binds),
    ]


def _waitress(launch: Launch) -> list[str]:
    _need("waitress", "waitress")
    words = [sys.executable, "-m", "waitress"]
    for bind in launch.binds:
        path = _no_fd(bind, "waitress").removeprefix("unix:")
        unix = [f"--unix-socket={path}", "--unix-socket-perms=660"]
        words += unix if bind.startswith("unix:") else [f"--listen={bind}"]
    return [
        *words,
        *(f"--threads={launch.threads or 400}", "--backlog=4096", "--connection-limit=1000"),
        *("--asyncore-use-poll", "--channel-timeout=30", "--cleanup-interval=5"),
        *("--max-request-header-size=65536", "--max-request-body-size=131072"),
        # By itself it drops X-Forwarded-For, by which the agent knows who asks; mdmw removes
        # what guests forge.
        "--no-clear-untrusted-proxy-headers",
        f"{launch.module}:application",
    ]


def _granian(launch: Launch) -> list[str]:
    _need("granian", "granian")
    if len(launch.binds) != 1:
        raise ConfigError("granian has one --bind")
    bind = _no_fd(launch.binds[0], "granian")
    host, _, port = bind.rpartition(":")
    where = ["--host", host.strip("[]"), "--port", port]
    if bind.startswith("unix:"):
        where = ["--uds", bind.removeprefix("unix:"), "--uds-permissions", "0o660"]
    return [
        *(sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", "--no-ws", *where),
        *("--workers", str(launch.workers or 4), "--blocking-threads", str(launch.threads or 50)),
        *("--backlog", "4096", "--backpressure", "400", "--http1-buffer-size", "65536"),
        *("--http1-header-read-timeout", "30000"),
        f"{launch.module}:application",
    ]


#: Server name -> its command line. waitress has one process, granian one listener.
SERVERS: dict[str, Callable[[Launch], list[str]]] = {
    "gunicorn": _gunicorn,
    "gunicorn-gevent": _gunicorn_gevent,
    "uwsgi": _uwsgi,
    "waitress": _waitress,
    "granian": _granian,
}


def _need(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{module} is not installed; pip install 'mdmw[{extra}]'")


def _numbers(launch: Launch, workers: str, threads: str) -> list[str]:
    words = [workers, str(launch.workers)] if launch.workers else []
    return [*words, threads, str(launch.threads)] if launch.threads else words


def _repeated(option: str, values: tuple[str, ...] | list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _no_fd(bind: str, server: str) -> str:
    if bind.startswith("fd:"):
        raise ConfigError(f"{server} takes no inherited socket; gunicorn does")
    return bind


def _shipped(name: str) -> str:
    return str(resources.files("mdmw") / "etc" / name)
