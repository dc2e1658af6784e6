"""mdmw-node on the node of the cloud, beside Neutron's agents or instead of their metadata part."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.topology import within

from .cloud import Cloud

USER = "nobody"
_BIN = Path(sys.executable).parent
_AGENTS = Path(__file__).with_name("neutron_agents.py")
#: A group that nobody else is in, by which workers come to the agent's socket through private directories.
_GROUP = 64986
_STOPPED_WITHIN = 5.0
_PROXY = """
[pipeline:proxy]
pipeline = identify to-agent
[filter:identify]
use = egg:mdmw#source-identify
mode = listener
client_mac = true
[app:to-agent]
use = egg:mdmw#agent-forward
metadata_proxy_socket = {socket}
"""
# Root needs no helper: `env` does nothing. The monitor looks each second. Proxies become a user (P-11).
_OPTIONS = f"""
[DEFAULT]
metadata_proxy_user = {USER}
metadata_proxy_group = nogroup
[AGENT]
root_helper = env
check_child_processes_interval = 1
"""


@dataclass(frozen=True)
class Known:
    """What Neutron's process manager knows of a proxy."""

    active: bool
    pid: int | None
    pid_file: str


class Agents:
    """Neutron's agents, as far as they care for metadata proxies. A scope is as in neutron_haproxy.py."""

    def __init__(self, orders: IO[str], answers: IO[str]) -> None:
        self._orders = orders
        self._answers = answers

    def spawn(self, scope: str) -> Known:
        """Have a proxy, and let it be monitored."""
        known = self._tell("spawn", scope)
        assert known.active, f"Neutron could not start a proxy for {scope}; see the log neutron-agents"
        return known

    def look(self, scope: str) -> Known:
        """What is known now."""
        return self._tell("look", scope)

    def destroy(self, scope: str) -> Known:
        """Have no proxy any more."""
        return self._tell("destroy", scope)

    def _tell(self, order: str, scope: str) -> Known:
        print(order, scope, file=self._orders, flush=True)
        return Known(**json.loads(self._answers.readline()))


@contextlib.contextmanager
def beside_neutron(cloud: Cloud) -> Iterator[Agents]:
    """mdmw-node as proxy, and Neutron's agents with mdmw-haproxy as haproxy."""
    text = _PROXY.format(socket=cloud.socket)
    with serving(cloud, "proxy", text, f"--group={_GROUP}") as directory, _agents(cloud, directory) as agents:
        yield agents


def admit_workers(cloud: Cloud) -> None:
    """Let them come to the socket of the running agent, as `metadata_proxy_socket_mode = group` does."""
    for directory in (cloud.state.run, cloud.socket.parent):
        os.chown(directory, -1, _GROUP)
        directory.chmod(0o710)
    os.chown(cloud.socket, -1, _GROUP)
    cloud.socket.chmod(0o660)


@contextlib.contextmanager
def serving(cloud: Cloud, pipeline: str, ini: str, *words: str, prefix: Sequence[str] = ()) -> Iterator[Path]:
    """mdmw-node in the node's namespace, with this pipeline, started by `prefix`; its run directory."""
    directory = Path(tempfile.mkdtemp(prefix="node-", dir=cloud.state.run))
    paste = directory / "api-paste.ini"
    paste.write_text(ini)
    command = [
        *(*prefix, _BIN / "mdmw-node", f"--ini={paste}", f"--pipeline={pipeline}", f"--run-dir={directory}"),
        *(f"--user={USER}", *words),
    ]
    with Ready(directory / "notify") as ready:
        env = {"NOTIFY_SOCKET": str(ready.path)}
        with cloud.services.serve(
            f"mdmw-node-{pipeline}", command, ready.is_said, env, stopped_within=_STOPPED_WITHIN
        ):
            yield directory


class Ready:
    """Hears, in the place of systemd, when a daemon is ready; then there is nobody in that place any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setblocking(False)

    def __enter__(self) -> "Ready":
        self._sock.bind(str(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self.path.unlink()

    def is_said(self) -> bool:
        """Whether it is; not to be asked again then."""
        with contextlib.suppress(BlockingIOError):
            while data := self._sock.recv(4096):
                if data == b"READY=1":
                    self._sock.close()  # what nobody reads would stop the daemon
                    return True
        return False


@contextlib.contextmanager
def _agents(cloud: Cloud, directory: Path) -> Iterator[Agents]:
    etc = cloud.state.etc("neutron-agents")
    options, programs = etc / "agents.ini", etc / "bin"
    options.write_text(_OPTIONS)
    programs.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (programs / "haproxy").symlink_to(_BIN / "mdmw-haproxy")
    neutron = cloud.state.virtualenv("neutron") / "bin"
    environ = os.environ | {
        "PATH": f"{programs}:{neutron}:{os.environ['PATH']}",
        "MDMW_NODE_SOCKET": str(directory / "node.sock"),
    }
    files = [str(cloud.state.etc("neutron") / "neutron.conf"), str(options)]
    with (
        cloud.state.log("neutron-agents").open("wb") as log,
        subprocess.Popen(
            within(cloud.node, [str(neutron / "python"), str(_AGENTS), *files]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environ,
            text=True,
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        yield Agents(process.stdin, process.stdout)
