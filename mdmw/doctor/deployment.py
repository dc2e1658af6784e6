"""What runs on this host: which daemons there are, and by which files they were told what to do.

What the command line of the doctor says comes first, then what the command lines of running
daemons say, then where such files usually are.
"""

import argparse
import contextlib
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

from oslo_config import cfg

from mdmw import options
from mdmw.doctor.processes import Process, process
from mdmw.filters import agent_forward
from mdmw.node.channel import Message
from mdmw.node.control import Absent, ControlError, called
from mdmw.records import Scope
from mdmw.wsgi import pipelines

_PATIENCE = 0.5  # seconds; mdmw-node takes 0.2 to count connections
_INI = Path("/etc/mdmw/api-paste.ini")
_CREDENTIALS = struct.Struct("3i")
_STANDARD_FILES = (
    "/etc/neutron/neutron.conf",
    "/etc/neutron/metadata_agent.ini",
    "/etc/neutron/dhcp_agent.ini",
    "/etc/neutron/l3_agent.ini",
)
_FILES = frozenset({"inventory", "inventory_db"})
_DEFAULT_PIPELINE = "proxy"  # of mdmw-node
#: Stages behind which there is nothing more of mdmw.
_LAST = ("nova-forward", "responder")
_NEUTRON = [
    cfg.StrOpt("state_path", default="/var/lib/neutron", help="Where Neutron keeps its state."),
    cfg.StrOpt("metadata_proxy_socket", help="Default: $state_path/metadata_proxy."),
    cfg.StrOpt("metadata_proxy_user", default="", help="Who the proxies are."),
    cfg.PortOpt("metadata_port", default=9697, help="Where a router's guests arrive."),
]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the doctor is asked: about whom, and what it is told. `source` are options by name (`--set`)."""

    scope: Scope | None = None
    address: str | None = None
    ini: str | None = None
    pipeline: str | None = None
    config_files: tuple[str, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)
    run_dir: Path = Path("/run/mdmw")

    @property
    def control(self) -> Path:
        """The control socket of mdmw-node."""
        return self.run_dir / "node.sock"


@dataclass(frozen=True, slots=True)
class Daemon:
    """mdmw-node: `process` is its keeper, None when it is `down` (it ran here) or `absent`.

    `source`: the options that it plans from, by name; empty without a plan.
    """

    state: str  # "serves", "hung", "down" or "absent"
    process: Process | None = None
    status: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    listeners: tuple[Message, ...] = ()
    ini: str | None = None
    pipeline: str = _DEFAULT_PIPELINE
    source: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def daemon(asked: Asked) -> Daemon:
    """The mdmw-node of `run_dir`."""
    told = SimpleNamespace(ini=asked.ini, pipeline=asked.pipeline or _DEFAULT_PIPELINE, source=asked.source)
    without = {"source": asked.source if set(asked.source) & _FILES else {}}  # the rest may be Neutron's own
    try:
        with called(asked.control, _PATIENCE) as caller:
            keeper = peer(asked.control, socket.SOCK_SEQPACKET)
            told = _told(keeper, asked) if keeper else told
            status, *problems = caller.ask("status")
            listeners = tuple(caller.ask("list"))
    except Absent:
        ran = (asked.run_dir / "attached").is_dir() or asked.control.exists()
        return Daemon("down", **vars(told)) if ran else Daemon("absent", **(vars(told) | without))
    except ControlError:
        return Daemon("hung", peer(asked.control, socket.SOCK_SEQPACKET), **vars(told))
    lines = tuple(str(problem.fields["what"]) for problem in problems)
    return Daemon("serves", keeper, status.fields, lines, listeners, **vars(told))


def _told(keeper: Process, asked: Asked) -> SimpleNamespace:
    """What the command line of mdmw-node says."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in ("--ini", "--pipeline", "--file"):
        parser.add_argument(name)
    for name in ("--config-file", "--set"):
        parser.add_argument(name, action="append", default=[])
    found, _ = parser.parse_known_args(keeper.argv[1:])
    source = dict(word.split("=", 1) for word in found.set)
    source |= {"config_file": ",".join(found.config_file)} if found.config_file else {}
    source |= {"inventory": found.file} if found.file else {}
    return SimpleNamespace(
        ini=asked.ini or found.ini,
        pipeline=found.pipeline or _DEFAULT_PIPELINE,
        source=source,
        words=tuple(
            [f"--set={word}" for word in found.set]
            + [f"--config-file={name}" for name in found.config_file]
            + ([f"--file={found.file}"] if found.file else [])
        ),
    )


def peer(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> Process | None:
    """Who listens at a unix socket, whether or not it accepts; None when nobody does."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.connect(str(path))
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return process(_CREDENTIALS.unpack(credentials)[0])
    return None


# --- files ------------------------------------------------------------------------------


def neutron_files(asked: Asked, agent: Process | None = None) -> tuple[str, ...]:
    """The options files of Neutron: those that were named, those of the agent, or the usual ones."""
    if asked.config_files:
        return asked.config_files
    words = [_hyphenated(word) for word in agent.argv] if agent and agent.mentions("metadata-agent") else []
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-file", action="append", default=[])
    named: list[str] = parser.parse_known_args(words)[0].config_file
    return tuple(named or [path for path in _STANDARD_FILES if Path(path).exists()])


def neutron_settings(files: Sequence[str]) -> SimpleNamespace:
    """Of Neutron's options those that tell where things are; raises `ConfigError`."""
    settings = options.load("doctor", _NEUTRON, {}, {"config_file": ",".join(files)} if files else {})
    settings.metadata_proxy_socket = settings.metadata_proxy_socket or f"{settings.state_path}/metadata_proxy"
    return settings


def stages_of_node(node: Daemon) -> list[pipelines.Stage]:
    """The pipeline of mdmw-node, none if nothing tells of its file; raises `ConfigError`."""
    path = node.ini or (str(_INI) if _INI.exists() else "")
    return pipelines.stages(path, node.pipeline) if path else []


def agent_sockets(stages: Sequence[pipelines.Stage]) -> list[Path]:
    """The unix sockets to which a pipeline forwards; raises `ConfigError`."""
    found = []
    for stage in stages:
        if stage.entry_point == "agent-forward":
            settings = options.load(
                "agent-forward", agent_forward.OPTIONS, stage.global_conf, stage.local_conf
            )
            addresses = agent_forward.addresses_of(settings)
            found += [Path(address.path) for address in addresses if address.scheme == "unix"]
    return found


def last_stages(asked: Asked, node: list[pipelines.Stage], agent: Process | None) -> list[pipelines.Stage]:
    """The pipeline that asks Nova or answers itself; empty when nothing tells. Raises `ConfigError`."""
    if asked.pipeline and asked.ini:
        return pipelines.stages(asked.ini, asked.pipeline)
    if any(stage.entry_point in _LAST for stage in node):
        return node
    if files := neutron_files(asked, agent):
        path = str(resources.files("mdmw") / "etc" / "metadata-agent.ini")
        return pipelines.stages(path, "agent", {"config_file": ",".join(files)})
    path = asked.ini or str(_INI)
    name = asked.pipeline or "agent"
    if not asked.ini and not _INI.exists():
        return []
    return pipelines.stages(path, name) if name in pipelines.names(path) else []


def _hyphenated(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word
