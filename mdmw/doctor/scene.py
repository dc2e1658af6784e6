"""What is on this host, before anything is asked: daemons, files, and the places where guests arrive."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdmw.doctor import deployment, places
from mdmw.doctor.deployment import Asked, Daemon
from mdmw.doctor.findings import Finding
from mdmw.doctor.notes import Notes
from mdmw.doctor.places import Place, Written
from mdmw.errors import Unavailable
from mdmw.node import settings
from mdmw.node.plan import Plan, plan
from mdmw.node.settings import Node
from mdmw.wsgi.pipelines import Stage

_PLAN_WITHIN = "0.8"  # seconds
_METADATA_PORT = 9697


@dataclass(frozen=True, slots=True)
class Scene:
    """`stages`: the pipeline that asks Nova or answers itself; `sockets`: of the agents in between."""

    asked: Asked
    node: Daemon
    plan: Node | None
    places: Sequence[Place]
    stages: Sequence[Stage]
    sockets: Sequence[Path]
    written: Sequence[Written]
    state_path: Path


def scene(asked: Asked, is_root: bool, notes: Notes) -> Scene:
    """Look around."""
    node = deployment.daemon(asked) if is_root else Daemon("absent")
    files = deployment.neutron_files(asked)
    neutron = notes.read(lambda: deployment.neutron_settings(files), deployment.neutron_settings(()))
    written = list(places.written_by_neutron(Path(neutron.state_path))) if is_root else []
    nothing: list[Stage] = []
    of_node = notes.read(lambda: deployment.stages_of_node(node), nothing) if node.state != "absent" else []
    nowhere: list[Path] = []
    sockets = notes.read(lambda: deployment.agent_sockets(of_node), nowhere)
    if node.state == "absent":
        named = Path(neutron.metadata_proxy_socket)
        sockets = [one.agent for one in written if one.agent] or ([named] if files or named.exists() else [])
    agent = deployment.peer(sockets[0]) if sockets else None
    stages = notes.read(lambda: deployment.last_stages(asked, of_node, agent), nothing)
    planned = _planned(node, notes)
    port = planned.options.metadata_port if planned else _METADATA_PORT
    found = [
        *(places.of_plan(wanted, planned.places) if planned and (wanted := _plan(planned, notes)) else ()),
        *places.of_daemon(node),
        *(one.place for one in written),
    ]
    chosen = places.chosen(places.merged(found), asked, port) if is_root else []
    if is_root and not chosen:
        notes.left_out.append("namespaces: nothing says that one is served here; name it with --network")
    return Scene(
        asked,
        node,
        planned,
        chosen,
        stages,
        list(dict.fromkeys(sockets)),
        written,
        Path(neutron.state_path),
    )


def _planned(node: Daemon, notes: Notes) -> Node | None:
    if not node.source:
        return None
    soon = {"neutron_timeout": _PLAN_WITHIN, "neutron_total_timeout": _PLAN_WITHIN}
    return notes.read(lambda: settings.load({**node.source, **soon}), None)


def _plan(planned: Node, notes: Notes) -> Plan | None:
    try:
        return notes.read(lambda: plan(planned.view(), planned.options), None)
    except Unavailable as error:
        kind = "keystone" if str(error).startswith("Keystone") else "neutron"
        mend = ("openstack port list --limit 1",)
        notes.findings.append(Finding(kind, "the plan of mdmw-node", str(error), "mdmw node plan", mend))
        return None
