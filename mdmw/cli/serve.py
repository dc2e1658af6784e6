"""`mdmw serve`: a pipeline on a real server."""

import argparse
import os
from typing import Any

from mdmw.cli.common import add_ini
from mdmw.cli.servers import SERVERS, Launch, command
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
        description="Check a pipeline and then become a WSGI server that runs it. For more settings than "
        "these start the server yourself; etc/ has configuration files, doc/servers.rst the command lines.",
    )
    parser.add_argument("pipeline", help=f"{', '.join(pipelines.NAMES)}, or another of the file")
    parser.add_argument(
        "--bind",
        action="append",
        metavar="unix:/PATH|HOST:PORT",
        help=f"where to listen, may be repeated; default: {_GUESTS_BIND}, for agent, nova and admin "
        "a unix socket in /run/mdmw, for operations 127.0.0.1:9775. fd://N is a socket inherited "
        "from the caller (gunicorn only)",
    )
    parser.add_argument("--server", choices=list(SERVERS), default="gunicorn", help="default: %(default)s")
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="processes; default: as in etc/, 2 (waitress has 1)"
    )
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="threads of each; default: as in etc/, 100 to 400"
    )
    add_ini(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """Replace this process by the server; returns only by a `ConfigError`."""
    path = arguments.ini or pipelines.ini_file()
    name = arguments.pipeline
    pipelines.load(name, path)
    binds = arguments.bind or [_DEFAULT_BIND.get(name, _GUESTS_BIND)]
    module = f"mdmw.wsgi.{name}" if name in pipelines.NAMES else "mdmw.wsgi.named"
    argv = command(arguments.server, Launch(module, tuple(binds), arguments.workers, arguments.threads))
    os.environ.update({pipelines.INI_VARIABLE: str(path), pipelines.NAME_VARIABLE: name})
    os.execv(argv[0], argv)  # noqa: S606 - no shell is what is wanted


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
