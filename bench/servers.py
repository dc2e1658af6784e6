"""The servers of the table, started as they are shipped: the command lines of `mdmw serve`, and mdmw-node."""

import dataclasses
import json
import subprocess
import sys
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
#: A server too, for one pipeline: it opens listeners in the namespaces of guests.
MDMW_NODE = "mdmw-node"
#: Believes relays that sign, which haproxy cannot do.
ONLY_SIGNED_RELAYS = "granian"

_NODE_USER = "nobody"
_NODE_WORKERS = 2
_ASK_CHECKOUT = """
import json, sys
from bench import servers
server, pipeline, listener = sys.argv[1:]
print(json.dumps(servers.command(server, pipeline, servers.Listener(**json.loads(listener)))))
"""


@dataclass(frozen=True)
class Listener:
    """Where a server listens: a unix socket, or an address and a port."""

    path: Path | None = None
    address: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.address}:{self.port}"


def command(server: str, pipeline: str, listener: Listener, checkout: Path | None = None) -> list[str]:
    """The command line that serves `pipeline` at `listener`; with `checkout`, what that one says it is."""
    if checkout:
        where = json.dumps(dataclasses.asdict(listener), default=str)
        asked = [_program(checkout, "python"), "-c", _ASK_CHECKOUT, server, pipeline, where]
        answer = subprocess.run(asked, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
        return [str(word) for word in json.loads(answer.stdout)]
    module = f"mdmw.wsgi.{pipeline if pipeline in NAMES else 'named'}"
    return serve.command(SERVERS[server], serve.Launch(module, (str(listener),)))


def node_command(pipeline: str, ini: Path, run_dir: Path, checkout: Path | None = None) -> list[str]:
    """The command line of mdmw-node with `pipeline`; `run_dir` is where it has its socket."""
    return [
        _program(checkout, MDMW_NODE),
        *("--ini", str(ini), "--pipeline", pipeline, "--run-dir", str(run_dir)),
        *("--user", _NODE_USER, "--workers", str(_NODE_WORKERS)),
    ]


def _program(checkout: Path | None, name: str) -> str:
    directory = checkout / ".venv" / "bin" if checkout else Path(sys.executable).parent
    return str(directory / name)
