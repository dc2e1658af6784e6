"""How each server is started: as `mdmw serve` starts it, which is as doc/servers.rst says.

`SERVERS` is the table: name -> a function from pipeline, listeners and workers to a `Launch`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mdmw.cli import serve

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


def _launch(server: str, pipeline: str, listeners: Sequence[Listener], workers: int = WORKERS) -> Launch:
    binds = tuple(f"unix:{listener}" if listener.path else str(listener) for listener in listeners)
    return Launch(serve.command(server, serve.Launch(f"mdmw.wsgi.{pipeline}", binds, workers)))


SERVERS: dict[str, Callable[..., Launch]] = {name: partial(_launch, name) for name in serve.SERVERS}
