"""How this host serves metadata: mdmw-node, its plan, the guest namespaces, the sockets of agents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdmw.doctor import configuration
from mdmw.doctor.configuration import NodeDaemon, Question
from mdmw.doctor.findings import Finding, Results
from mdmw.doctor.namespaces import (
    GuestNamespace,
    HaproxyFile,
    asked_about,
    haproxy_files,
    merged,
    of_daemon,
    of_plan,
)
from mdmw.doctor.processes import listening_process
from mdmw.errors import Unavailable
from mdmw.node import settings
from mdmw.node.plan import Plan, plan
from mdmw.node.settings import NodeSettings
from mdmw.wsgi.pipelines import Stage

_PLAN_WITHIN = "0.8"  # seconds
_METADATA_PORT = 9697


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the doctor checks.

    `stages` is the pipeline that asks Nova, or that answers guests itself. `sockets` are the unix sockets of
    the agents between the proxies and Nova. `planning` has the options of mdmw-node's plan, if it has one.
    """

    question: Question
    node: NodeDaemon
    planning: NodeSettings | None
    namespaces: Sequence[GuestNamespace]
    stages: Sequence[Stage]
    sockets: Sequence[Path]
    haproxy_files: Sequence[HaproxyFile]
    state_path: Path


def find_deployment(question: Question, is_root: bool, results: Results) -> Deployment:
    """Find out how this host serves metadata. Without root, only configuration files are read."""
    node = configuration.find_node_daemon(question) if is_root else NodeDaemon("absent")
    files = configuration.neutron_files(question)
    neutron = results.read(lambda: configuration.neutron_settings(files), configuration.neutron_settings(()))
    state_path = Path(neutron.state_path)
    written = list(haproxy_files(state_path)) if is_root else []
    no_stages: list[Stage] = []
    node_stages = (
        results.read(lambda: configuration.stages_of_node(node), no_stages) if node.state != "absent" else []
    )
    no_sockets: list[Path] = []
    sockets = results.read(lambda: configuration.agent_sockets(node_stages), no_sockets)
    if node.state == "absent":
        usual = Path(neutron.metadata_proxy_socket)
        sockets = [one.agent for one in written if one.agent] or ([usual] if files or usual.exists() else [])
    agent = listening_process(sockets[0]) if sockets else None
    stages = results.read(lambda: configuration.last_stages(question, node_stages, agent), no_stages)
    planning = _planning(node, results)
    current = _current_plan(planning, results) if planning else None
    found = [
        *(of_plan(current, planning.places) if planning and current else ()),
        *of_daemon(node),
        *(one.namespace for one in written),
    ]
    port = planning.options.metadata_port if planning else _METADATA_PORT
    chosen = asked_about(merged(found), question, port) if is_root else []
    if is_root and not chosen:
        results.left_out.append(
            "namespaces: no plan, listener or haproxy file names one; name a network with --network"
        )
    return Deployment(
        question,
        node,
        planning,
        chosen,
        stages,
        list(dict.fromkeys(sockets)),
        written,
        state_path,
    )


def _planning(node: NodeDaemon, results: Results) -> NodeSettings | None:
    if not node.source:
        return None
    limits = {"neutron_timeout": _PLAN_WITHIN, "neutron_total_timeout": _PLAN_WITHIN}
    return results.read(lambda: settings.load({**node.source, **limits}), None)


def _current_plan(planning: NodeSettings, results: Results) -> Plan | None:
    """The plan of this moment, made as mdmw-node makes it; None after a fault, which becomes a finding."""
    try:
        return results.read(lambda: plan(planning.view(), planning.options), None)
    except Unavailable as error:
        kind = "keystone" if str(error).startswith("Keystone") else "neutron"
        mend = ("openstack port list --limit 1",)
        results.findings.append(Finding(kind, "the plan of mdmw-node", str(error), "mdmw node plan", mend))
        return None
