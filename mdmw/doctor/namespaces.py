"""The network namespaces of this host in which guests find their metadata.

Three sources name such namespaces: the plan of mdmw-node, the listeners of mdmw-node, and the haproxy files
of Neutron's agents.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mdmw.doctor.configuration import NodeDaemon, Question
from mdmw.node import network_state
from mdmw.node.channel import to_bind, to_scope
from mdmw.node.namespaces import Bind
from mdmw.node.plan import METADATA_PORT, DhcpPlan, Plan, RouterPlan
from mdmw.node.programs import Places, Wanted, wanted
from mdmw.records import METADATA_ADDRESS, Scope, is_uuid

_BIND = re.compile(r"\s*bind\s+(\S*):([0-9]+)(?:\s+interface\s+(\S+))?")
_ID = re.compile(
    r"\s*http-request\s+(?:set|add)-header\s+X-(?:Neutron|Quantum|OVN)-(Network|Router)-ID\s+(\S+)"
)
_SERVER = re.compile(r"\s*server\s+\S+\s+(/\S+)")
_IDENTITY = re.compile(r"\s*(user|group)\s+(\S+)")


@dataclass(frozen=True, slots=True)
class GuestNamespace:
    """A network namespace, the scope of the guests that arrive there, and the addresses that they ask.

    `named_by` is "plan", "mdmw-haproxy", "haproxy", or "question" if only the question names the namespace.
    `wanted` is what the plan says about the namespace.
    """

    name: str
    scope: Scope
    binds: tuple[Bind, ...]
    named_by: str
    wanted: Wanted | None = None

    @property
    def is_of_router(self) -> bool:
        """Whether guests reach the namespace through a router."""
        return self.name.startswith("qrouter-")

    @property
    def is_served_by_mdmw_node(self) -> bool:
        """Whether the plan or the listeners of mdmw-node name the namespace."""
        return self.named_by in ("plan", "mdmw-haproxy")


@dataclass(frozen=True, slots=True)
class HaproxyFile:
    """A file of Neutron for a haproxy: the namespace, the agent's socket, the names of user and group."""

    namespace: GuestNamespace
    agent: Path | None
    user: str
    group: str


def of_plan(plan: Plan, places: Places) -> Iterator[GuestNamespace]:
    """The namespaces of the plan. A network that a router serves has no binds in its own namespace."""
    needed = wanted(plan, places)
    plans: list[tuple[DhcpPlan | RouterPlan, Scope]] = [
        *((one, Scope("network", one.network_id)) for one in plan.dhcp),
        *((one, Scope("router", one.router_id)) for one in plan.routers),
    ]
    for one, own_scope in plans:
        scope = one.listeners[0].scope if one.listeners else own_scope
        binds = tuple(Bind(listener.address, listener.port, listener.device) for listener in one.listeners)
        yield GuestNamespace(one.namespace, scope, binds, "plan", needed[one.namespace])


def of_daemon(node: NodeDaemon) -> Iterator[GuestNamespace]:
    """The namespaces in which mdmw-node listens."""
    for message in node.listeners:
        fields = message.fields
        named_by = "plan" if fields["owner"] == "plan" else "mdmw-haproxy"
        if fields["namespace"]:
            binds = (to_bind(fields["bind"]),)
            yield GuestNamespace(fields["namespace"], to_scope(fields["scope"]), binds, named_by)


def haproxy_files(state_path: Path) -> Iterator[HaproxyFile]:
    """The files in `ns-metadata-proxy` that Neutron's agents wrote (P-10)."""
    for path in sorted((state_path / "ns-metadata-proxy").glob("*.conf")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except FileNotFoundError:  # the agent deleted the file meanwhile
            continue
        ids = {(found[1].lower(), found[2]) for found in filter(None, map(_ID.match, lines))}
        binds = tuple(
            Bind(found[1].strip("[]*") or "0.0.0.0", int(found[2]), found[3])  # noqa: S104 - what haproxy means
            for found in filter(None, map(_BIND.match, lines))
        )
        identity = {found[1]: found[2] for found in filter(None, map(_IDENTITY.match, lines))}
        agents = [Path(found[1]) for found in filter(None, map(_SERVER.match, lines))]
        for kind, text in ids:
            # Spec 4.9: a router at port 80 is served in the namespace of a network, which no file names.
            if is_uuid(text) and not (kind == "router" and METADATA_PORT in {bind.port for bind in binds}):
                scope = Scope("router" if kind == "router" else "network", text)
                namespace = GuestNamespace(neutron_name(scope), scope, binds, "haproxy")
                agent = next(iter(agents), None)
                yield HaproxyFile(namespace, agent, identity.get("user", ""), identity.get("group", ""))


def neutron_name(scope: Scope) -> str:
    """The name that Neutron gives the namespace of a network or router (spec 4.7)."""
    return f"qdhcp-{scope.id}" if scope.kind == "network" else f"qrouter-{scope.id}"


def merged(found: Iterable[GuestNamespace]) -> list[GuestNamespace]:
    """One entry for each namespace and scope: that of the first source, with all binds of this source."""
    by_key: dict[tuple[str, Scope], GuestNamespace] = {}
    for one in found:
        first = by_key.setdefault((one.name, one.scope), one)
        if first.named_by == one.named_by:
            binds = tuple(dict.fromkeys((*first.binds, *one.binds)))
            by_key[one.name, one.scope] = replace(first, binds=binds)
    return sorted(by_key.values(), key=lambda one: (one.name, one.scope.id))


def asked_about(found: list[GuestNamespace], question: Question, metadata_port: int) -> list[GuestNamespace]:
    """The namespaces that the question is about. A scope that no source names has Neutron's namespace."""
    if question.scope:
        id_ = question.scope.id
        matching = [one for one in found if id_ in (one.scope.id, one.name.partition("-")[2])]
        return matching or [_of_question(question.scope, metadata_port)]
    if question.address:
        address = ipaddress.ip_address(question.address)
        return [one for one in found if _may_have_subnet(one.name, address)]
    return found


def _of_question(scope: Scope, metadata_port: int) -> GuestNamespace:
    port = METADATA_PORT if scope.kind == "network" else metadata_port
    return GuestNamespace(neutron_name(scope), scope, (Bind(METADATA_ADDRESS, port),), "question")


def _may_have_subnet(namespace: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether a device of the namespace has a subnet with `address`; True if the namespace does not exist."""
    try:
        devices = network_state.inside(namespace, network_state.devices)
    except OSError:
        return True
    return any(
        address in ipaddress.ip_interface(one.text).network
        for device in devices.values()
        for one in device.addresses
    )
