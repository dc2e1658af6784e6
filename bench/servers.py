"""The servers of the table, started as they are shipped: the command lines of `mdmw serve`."""

from dataclasses import dataclass
from pathlib import Path

from mdmw.cli import serve
from mdmw.wsgi.pipelines import NAMES

#: Name in the table -> name of `mdmw serve --server`. waitress has one process, all others two.
SERVERS = {
    "gunicorn gthread": "gunicorn",
    "gunicorn gevent": "gunicorn-gevent",
    "uWSGI": "uwsgi",
    "waitress": "waitress",
    "granian": "granian",
}
#: Believes relays that sign, which haproxy cannot do.
ONLY_SIGNED_RELAYS = "granian"


@dataclass(frozen=True)
class Listener:
    """Where a server listens: a unix socket, or an address and a port."""

    path: Path | None = None
    address: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.address}:{self.port}"


def command(server: str, pipeline: str, listener: Listener) -> list[str]:
    """The command line that serves `pipeline` at `listener`."""
    module = f"mdmw.wsgi.{pipeline if pipeline in NAMES else 'named'}"
    return serve.command(SERVERS[server], serve.Launch(module, (str(listener),)))
