"""Where guests are to be met on this host: by the plan, by what mdmw-node has, by what Neutron wrote."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mdmw.doctor import deployment
from mdmw.doctor.deployment import Asked, Daemon
from mdmw.doctor.findings import Finding, Notes
from mdmw.errors import Unavailable
from mdmw.node import network_state, settings
from mdmw.node.channel import to_bind, to_scope
from mdmw.node.namespaces import Bind
from mdmw.node.plan import METADATA_PORT, DhcpPlan, Plan, RouterPlan, plan
from mdmw.node.programs import Places, Wanted, wanted
from mdmw.node.settings import Node
from mdmw.records import METADATA_ADDRESS, Scope, is_uuid
from mdmw.wsgi.pipelines import Stage

_BIND = re.compile(r"\s*bind\s+(\S*):([0-9]+)(?:\s+interface\s+(\S+))?")
_ID = re.compile(
    r"\s*http-request\s+(?:set|add)-header\s+X-(?:Neutron|Quantum|OVN)-(Network|Router)-ID\s+(\S+)"
)
_SERVER = re.compile(r"\s*server\s+\S+\s+(/\S+)")
_IDENTITY = re.compile(r"\s*(user|group)\s+(\S+)")


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace, whose guests arrive there, and at what. `wanted`: what a plan says of it.

    `by`: "plan", "mdmw-haproxy", "haproxy", or "question", when only the one who asks says so.
    """

    namespace: str
    scope: Scope
    binds: tuple[Bind, ...]
    by: str
    wanted: Wanted | None = None

    @property
    def is_router(self) -> bool:
        """Whether guests come through a router of this namespace."""
        return self.namespace.startswith("qrouter-")


@dataclass(frozen=True, slots=True)
class Written:
    """What Neutron wrote for a haproxy: its place, the agent's socket, and who it becomes (names)."""

    place: Place
    agent: Path | None
    user: str
    group: str


def of_plan(plan: Plan, places: Places) -> Iterator[Place]:
    """Of every namespace in the plan; those of networks that their routers serve have no binds."""
    needed = wanted(plan, places)
    plans: list[tuple[DhcpPlan | RouterPlan, Scope]] = [
        *((one, Scope("network", one.network_id)) for one in plan.dhcp),
        *((one, Scope("router", one.router_id)) for one in plan.routers),
    ]
    for one, scope in plans:
        for_whom = one.listeners[0].scope if one.listeners else scope
        binds = tuple(Bind(place.address, place.port, place.device) for place in one.listeners)
        yield Place(one.namespace, for_whom, binds, "plan", needed[one.namespace])


def of_daemon(node: Daemon) -> Iterator[Place]:
    """Of what mdmw-node listens to."""
    for message in node.listeners:
        fields = message.fields
        by = "plan" if fields["owner"] == "plan" else "mdmw-haproxy"
        if fields["namespace"]:
            yield Place(fields["namespace"], to_scope(fields["scope"]), (to_bind(fields["bind"]),), by)


def written_by_neutron(state_path: Path) -> Iterator[Written]:
    """Of the files in `ns-metadata-proxy`, as Neutron's agents write them (P-10)."""
    for path in sorted((state_path / "ns-metadata-proxy").glob("*.conf")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except FileNotFoundError:  # since it was listed
            continue
        ids = {(found[1].lower(), found[2]) for found in filter(None, map(_ID.match, lines))}
        binds = tuple(
            Bind(found[1].strip("[]*") or "0.0.0.0", int(found[2]), found[3])  # noqa: S104 - what haproxy means
            for found in filter(None, map(_BIND.match, lines))
        )
        identity = {found[1]: found[2] for found in filter(None, map(_IDENTITY.match, lines))}
        agents = [Path(found[1]) for found in filter(None, map(_SERVER.match, lines))]
        for kind, text in ids:
            # 4.9: at port 80 a router is served in the namespace of a network, which nothing names.
            if is_uuid(text) and not (kind == "router" and METADATA_PORT in {bind.port for bind in binds}):
                scope = Scope("router" if kind == "router" else "network", text)
                place = Place(namespace_of(scope), scope, binds, "haproxy")
                agent = next(iter(agents), None)
                yield Written(place, agent, identity.get("user", ""), identity.get("group", ""))


def namespace_of(scope: Scope) -> str:
    """As Neutron names it (4.7)."""
    return f"qdhcp-{scope.id}" if scope.kind == "network" else f"qrouter-{scope.id}"


def merged(found: Iterable[Place]) -> list[Place]:
    """One for each namespace and scope; the first that tells of it counts, and binds are added up."""
    by_key: dict[tuple[str, Scope], Place] = {}
    for place in found:
        first = by_key.setdefault((place.namespace, place.scope), place)
        if first.by == place.by:
            binds = tuple(dict.fromkeys((*first.binds, *place.binds)))
            by_key[place.namespace, place.scope] = replace(first, binds=binds)
    return sorted(by_key.values(), key=lambda one: (one.namespace, one.scope.id))


def choose_places(found: list[Place], asked: Asked, metadata_port: int) -> list[Place]:
    """Those that the question is about."""
    if asked.scope:
        wanted_id = asked.scope.id
        of_it = [one for one in found if wanted_id in (one.scope.id, one.namespace.partition("-")[2])]
        return of_it or [_asked_for(asked.scope, metadata_port)]
    if asked.address:
        address = ipaddress.ip_address(asked.address)
        return [one for one in found if _has_subnet(one.namespace, address)]
    return found


def _asked_for(scope: Scope, metadata_port: int) -> Place:
    port = METADATA_PORT if scope.kind == "network" else metadata_port
    return Place(namespace_of(scope), scope, (Bind(METADATA_ADDRESS, port),), "question")


def _has_subnet(namespace: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """A namespace that is not there may have it."""
    try:
        devices = network_state.inside(namespace, network_state.devices)
    except OSError:
        return True
    return any(
        address in ipaddress.ip_interface(one.text).network
        for device in devices.values()
        for one in device.addresses
    )


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
    written = list(written_by_neutron(Path(neutron.state_path))) if is_root else []
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
        *(of_plan(known, planned.places) if planned and (known := _plan(planned, notes)) else ()),
        *of_daemon(node),
        *(one.place for one in written),
    ]
    chosen = choose_places(merged(found), asked, port) if is_root else []
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
