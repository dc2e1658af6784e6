"""Which mdmw-node runs on this host, and which configuration files are in use.

First counts what the command line of the doctor names, then what the command lines of running daemons name,
and then the usual places of the files.
"""

import argparse
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg

from mdmw import options
from mdmw.doctor.processes import Process, listening_process
from mdmw.filters import agent_forward
from mdmw.node.channel import Message
from mdmw.node.control import ControlError, KeeperAbsent, called
from mdmw.records import Scope
from mdmw.wsgi import pipelines
from mdmw.wsgi.pipelines import Stage

_KEEPER_WITHIN = 0.5  # seconds; mdmw-node needs 0.2 to count connections
_INI = Path("/etc/mdmw/api-paste.ini")
_NEUTRON_FILES = (
    "/etc/neutron/neutron.conf",
    "/etc/neutron/metadata_agent.ini",
    "/etc/neutron/dhcp_agent.ini",
    "/etc/neutron/l3_agent.ini",
)
_INVENTORY_OPTIONS = frozenset({"inventory", "inventory_db"})
_NODE_PIPELINE = "proxy"  # the default of mdmw-node
#: Stages after which no other stage of mdmw follows.
_LAST_STAGES = ("nova-forward", "responder")
_NEUTRON_OPTIONS = [
    cfg.StrOpt("state_path", default="/var/lib/neutron", help="Directory of Neutron's state files."),
    cfg.StrOpt("metadata_proxy_socket", help="Socket of the agent. Default: $state_path/metadata_proxy."),
    cfg.StrOpt("metadata_proxy_user", default="", help="User of the metadata proxies."),
    cfg.PortOpt("metadata_port", default=9697, help="Port of the metadata proxy of a router."),
]


@dataclass(frozen=True, slots=True)
class Question:
    """What the operator asks the doctor, and the files that the operator names.

    `source` has the options from which mdmw-node plans, by name (`--file`, `--set`).
    """

    scope: Scope | None = None
    address: str | None = None
    ini: str | None = None
    pipeline: str | None = None
    config_files: tuple[str, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)
    run_dir: Path = Path("/run/mdmw")

    @property
    def control_socket(self) -> Path:
        """The control socket of mdmw-node."""
        return self.run_dir / "node.sock"


@dataclass(frozen=True, slots=True)
class NodeDaemon:
    """mdmw-node. `process` is the keeper.

    `state` is "serves", "hung", "down" (mdmw-node ran here, and does not run now) or "absent". `source` has
    the options from which mdmw-node plans, by name; without a plan, it is empty. `source_words` are the same
    options as words of a command line.
    """

    state: str
    process: Process | None = None
    status: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    listeners: tuple[Message, ...] = ()
    ini: str | None = None
    pipeline: str = _NODE_PIPELINE
    source: Mapping[str, str] = field(default_factory=dict)
    source_words: tuple[str, ...] = ()


def find_node_daemon(question: Question) -> NodeDaemon:
    """The mdmw-node of `run_dir`: what its keeper answers, and what the command line of its keeper names."""
    control = question.control_socket
    files: dict[str, Any] = {
        "ini": question.ini,
        "pipeline": question.pipeline or _NODE_PIPELINE,
        "source": question.source,
    }
    try:
        with called(control, _KEEPER_WITHIN) as keeper:
            process = listening_process(control, socket.SOCK_SEQPACKET)
            files = _named_by(process, question) if process else files
            status, *problems = keeper.ask("status")
            listeners = tuple(keeper.ask("list"))
    except KeeperAbsent:
        if (question.run_dir / "attached").is_dir() or control.exists():
            return NodeDaemon("down", **files)
        # Without an inventory, options of a source may be meant for Neutron's agents alone.
        source = question.source if set(question.source) & _INVENTORY_OPTIONS else {}
        return NodeDaemon("absent", **(files | {"source": source}))
    except ControlError:
        return NodeDaemon("hung", listening_process(control, socket.SOCK_SEQPACKET), **files)
    texts = tuple(str(problem.fields["what"]) for problem in problems)
    return NodeDaemon("serves", process, status.fields, texts, listeners, **files)


def _named_by(keeper: Process, question: Question) -> dict[str, Any]:
    """The files that the command line of mdmw-node names."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in ("--ini", "--pipeline", "--file"):
        parser.add_argument(name)
    for name in ("--config-file", "--set"):
        parser.add_argument(name, action="append", default=[])
    named, _ = parser.parse_known_args(keeper.argv[1:])
    source = dict(word.split("=", 1) for word in named.set)
    source |= {"config_file": ",".join(named.config_file)} if named.config_file else {}
    source |= {"inventory": named.file} if named.file else {}
    words = [f"--set={word}" for word in named.set]
    words += [f"--config-file={name}" for name in named.config_file]
    words += [f"--file={named.file}"] if named.file else []
    return {
        "ini": question.ini or named.ini,
        "pipeline": named.pipeline or _NODE_PIPELINE,
        "source": source,
        "source_words": tuple(words),
    }


def neutron_files(question: Question, agent: Process | None = None) -> tuple[str, ...]:
    """Neutron's configuration files: those of the question, of the agent's command line, or the usual."""
    if question.config_files:
        return question.config_files
    words = (
        [options.hyphenated(word) for word in agent.argv]
        if agent and agent.mentions("metadata-agent")
        else []
    )
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-file", action="append", default=[])
    named: list[str] = parser.parse_known_args(words)[0].config_file
    return tuple(named or [path for path in _NEUTRON_FILES if Path(path).exists()])


def neutron_settings(files: Sequence[str]) -> SimpleNamespace:
    """The options of Neutron that name places on this host; raises `ConfigError`."""
    given = {"config_file": ",".join(files)} if files else {}
    settings = options.load("doctor", _NEUTRON_OPTIONS, {}, given)
    settings.metadata_proxy_socket = settings.metadata_proxy_socket or f"{settings.state_path}/metadata_proxy"
    return settings


def stages_of_node(node: NodeDaemon) -> list[Stage]:
    """The pipeline of mdmw-node; empty if nothing names a paste file. Raises `ConfigError`."""
    path = node.ini or (str(_INI) if _INI.exists() else "")
    return pipelines.stages(path, node.pipeline) if path else []


def agent_sockets(stages: Sequence[Stage]) -> list[Path]:
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


def last_stages(question: Question, node_stages: list[Stage], agent: Process | None) -> list[Stage]:
    """The pipeline that asks Nova, or that answers guests itself; empty if nothing names one.

    Raises `ConfigError`.
    """
    if question.pipeline and question.ini:
        return pipelines.stages(question.ini, question.pipeline)
    if any(stage.entry_point in _LAST_STAGES for stage in node_stages):
        return node_stages
    if files := neutron_files(question, agent):
        path = str(resources.files("mdmw") / "etc" / "metadata-agent.ini")
        return pipelines.stages(path, "agent", {"config_file": ",".join(files)})
    path = question.ini or str(_INI)
    name = question.pipeline or "agent"
    if not question.ini and not _INI.exists():
        return []
    return pipelines.stages(path, name) if name in pipelines.names(path) else []
