"""`mdmw serve`: check a pipeline, and become a WSGI server that runs the pipeline."""

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mdmw.cli.common import add_ini
from mdmw.errors import ConfigError
from mdmw.wsgi import pipelines

_DEFAULT_BIND = {
    "agent": "unix:/run/mdmw/metadata_proxy",
    "nova": "unix:/run/mdmw/nova",
    "admin": "unix:/run/mdmw/admin",
    "admin-local": "unix:/run/mdmw/admin",
    "operations": "127.0.0.1:9775",
}
_GUESTS_BIND = "169.254.169.254:80"


def add_parser(commands: Any) -> None:
    """`mdmw serve PIPELINE`."""
    parser = commands.add_parser(
        "serve",
        help="run a pipeline on a WSGI server",
        description="Check a pipeline, and then become a WSGI server that runs the pipeline. If you need "
        "other settings, start the server yourself: etc/ has configuration files, and doc/servers.rst has "
        "command lines.",
    )
    parser.add_argument("pipeline", help=f"{', '.join(pipelines.NAMES)}, or another pipeline of the file")
    parser.add_argument(
        "--bind",
        action="append",
        metavar="unix:/PATH|HOST:PORT",
        help="address to listen at; may be repeated. Default: a unix socket in /run/mdmw for agent, nova "
        f"and admin, 127.0.0.1:9775 for operations, and {_GUESTS_BIND} for other pipelines. fd://N is a "
        "socket that the caller has opened (only with gunicorn)",
    )
    parser.add_argument(
        "--server", choices=list(SERVERS), default="gunicorn", help="WSGI server; default: %(default)s"
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="number of processes; default: gunicorn 4, uwsgi 2, granian 4; waitress always has 1",
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="threads of each process; default: gunicorn 200, uwsgi 100, waitress 400, granian 50",
    )
    add_ini(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """Replace this process by the server; raises `ConfigError`, and never returns."""
    path = arguments.ini or pipelines.ini_file()
    name = arguments.pipeline
    pipelines.load(name, path)
    binds = arguments.bind or [_DEFAULT_BIND.get(name, _GUESTS_BIND)]
    module = f"mdmw.wsgi.{name}" if name in pipelines.NAMES else "mdmw.wsgi.named"
    argv = command(arguments.server, Launch(module, tuple(binds), arguments.workers, arguments.threads))
    os.environ.update({pipelines.INI_VARIABLE: str(path), pipelines.NAME_VARIABLE: name})
    os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("1 or more is allowed")
    return number


# --- command lines ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """The module that has the application, and where to listen.

    `binds` are `unix:/path`, `host:port`, or `fd://N` for gunicorn. Without `workers` (processes) and
    `threads` (of each process), the configuration file or the command line of the server decides.
    """

    module: str
    binds: tuple[str, ...]
    workers: int | None = None
    threads: int | None = None


def command(server: str, launch: Launch) -> list[str]:
    """The command line of `server`; raises `ConfigError` if the server is missing, or cannot bind so."""
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
        # waitress drops X-Forwarded-For by default, but the agent needs the header to identify the guest.
        # mdmw itself removes headers that guests forge.
        "--no-clear-untrusted-proxy-headers",
        f"{launch.module}:application",
    ]


def _granian(launch: Launch) -> list[str]:
    _need("granian", "granian")
    if len(launch.binds) != 1:
        raise ConfigError("granian can have only one --bind")
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


#: Name of the server -> its command line. waitress has only one process, and granian only one listener.
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
        raise ConfigError(f"{server} cannot use an inherited socket; use gunicorn")
    return bind


def _shipped(name: str) -> str:
    return str(resources.files("mdmw") / "etc" / name)
