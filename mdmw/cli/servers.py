"""How each WSGI server is started with a pipeline: one command line per server."""

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
    """What to run where. `binds` are `unix:/path`, `host:port`, or `fd://N` for gunicorn."""

    module: str
    binds: tuple[str, ...]
    workers: int
    threads: int


def command(server: str, launch: Launch) -> list[str]:
    """The command line of `server`; `ConfigError` when it is missing or cannot bind so."""
    return SERVERS[server](launch)


def _gunicorn(launch: Launch, worker_class: str = "gthread") -> list[str]:
    _need("gunicorn", worker_class if worker_class == "gevent" else "gunicorn")
    binds = [word for bind in launch.binds for word in ("--bind", bind)]
    return [
        *(sys.executable, "-m", "gunicorn", "--config", _shipped("gunicorn.conf.py")),
        *("--worker-class", worker_class, "--workers", str(launch.workers), "--threads", str(launch.threads)),
        *binds,
        f"{launch.module}:application",
    ]


def _gunicorn_gevent(launch: Launch) -> list[str]:
    return _gunicorn(launch, "gevent")


def _uwsgi(launch: Launch) -> list[str]:
    program = Path(sys.executable).with_name("uwsgi")
    found = str(program) if program.exists() else shutil.which("uwsgi")
    if not found:
        raise ConfigError("server 'uwsgi' is not installed; pip install 'mdmw[uwsgi]'")
    binds = [word for bind in launch.binds for word in ("--http-socket", _path_or_tcp(bind, "uwsgi"))]
    return [
        *(found, "--ini", _shipped("uwsgi.ini"), "--module", f"{launch.module}:application"),
        *("--processes", str(launch.workers), "--threads", str(launch.threads)),
        *binds,
    ]


def _waitress(launch: Launch) -> list[str]:
    _need("waitress", "waitress")
    binds = [
        f"--unix-socket={bind.removeprefix('unix:')}" if bind.startswith("unix:") else f"--listen={bind}"
        for bind in (_no_fd(bind, "waitress") for bind in launch.binds)
    ]
    return [
        *(sys.executable, "-m", "waitress", *binds, f"--threads={launch.threads}"),
        *("--backlog=4096", "--connection-limit=4096", "--ident=", "--unix-socket-perms=660"),
        *("--max-request-header-size=65536", "--channel-timeout=30", f"{launch.module}:application"),
    ]


def _granian(launch: Launch) -> list[str]:
    _need("granian", "granian")
    if len(launch.binds) != 1:
        raise ConfigError("granian has one --bind")
    bind = _no_fd(launch.binds[0], "granian")
    host, _, port = bind.rpartition(":")
    where = (
        ["--uds", bind.removeprefix("unix:"), "--uds-permissions", "432"]  # 0660
        if bind.startswith("unix:")
        else ["--host", host.strip("[]"), "--port", port]
    )
    return [
        *(sys.executable, "-m", "granian", "--interface", "wsgi", *where, "--backlog", "4096"),
        *("--workers", str(launch.workers), "--blocking-threads", str(launch.threads), "--no-ws"),
        f"{launch.module}:application",
    ]


#: Server name -> its command line.
SERVERS: dict[str, Callable[[Launch], list[str]]] = {
    "gunicorn": _gunicorn,
    "gunicorn-gevent": _gunicorn_gevent,
    "uwsgi": _uwsgi,
    "waitress": _waitress,
    "granian": _granian,
}


def _need(module: str, extra: str) -> None:
    for name in {module, extra}:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"server {name!r} is not installed; pip install 'mdmw[{extra}]'")


def _no_fd(bind: str, server: str) -> str:
    if bind.startswith("fd:"):
        raise ConfigError(f"{server} takes no inherited socket; gunicorn does")
    return bind


def _path_or_tcp(bind: str, server: str) -> str:
    return _no_fd(bind, server).removeprefix("unix:")


def _shipped(name: str) -> str:
    return str(resources.files("mdmw") / "etc" / name)
