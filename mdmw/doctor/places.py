"""Where guests are to be met on this host: by the plan, by what mdmw-node has, by what Neutron wrote."""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mdmw.doctor.deployment import Asked, Daemon
from mdmw.node import present
from mdmw.node.channel import to_bind, to_scope
from mdmw.node.namespaces import Bind
from mdmw.node.plan import METADATA_PORT, DhcpPlan, Plan, RouterPlan
from mdmw.node.wanted import Places, Wanted, wanted
from mdmw.records import METADATA_ADDRESS, Scope, is_uuid

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


def chosen(found: list[Place], asked: Asked, metadata_port: int) -> list[Place]:
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
        devices = present.inside(namespace, present.devices)
    except OSError:
        return True
    return any(
        address in ipaddress.ip_interface(one.text).network
        for device in devices.values()
        for one in device.addresses
    )
