"""The network namespaces of this host in which guests find their metadata.

Three sources name such namespaces: the plan of mdmw-node, the listeners of mdmw-node, and the haproxy files
of Neutron's agents.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mdmw.doctor.configuration import NodeDaemon, Question
from mdmw.node import haproxy_file, network_state
from mdmw.node.channel import to_bind, to_scope
from mdmw.node.desired import DesiredState, Places, desired_states
from mdmw.node.namespaces import Bind
from mdmw.node.plan import METADATA_PORT, DhcpPlan, Plan, RouterPlan
from mdmw.records import METADATA_ADDRESS, Scope, is_uuid


@dataclass(frozen=True, slots=True)
class GuestNamespace:
    """A network namespace, the scope of the guests that arrive there, and the addresses that they ask.

    `named_by` is "plan", "mdmw-haproxy", "haproxy", or "question" if only the question names the namespace.
    `desired` is what the plan says about the namespace.
    """

    name: str
    scope: Scope
    binds: tuple[Bind, ...]
    named_by: str
    desired: DesiredState | None = None

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
    needed = desired_states(plan, places)
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
            file = haproxy_file.parse(path.read_text(errors="replace"))
        except FileNotFoundError:  # the agent deleted the file meanwhile
            continue
        at_metadata_port = METADATA_PORT in {bind.port for bind in file.binds}
        for kind, text in sorted(file.ids):
            # Spec 4.9: a router at port 80 is served in the namespace of a network, which no file names.
            if is_uuid(text) and not (kind == "router" and at_metadata_port):
                scope = Scope("router" if kind == "router" else "network", text)
                namespace = GuestNamespace(neutron_name(scope), scope, file.binds, "haproxy")
                agent = Path(file.agent_socket) if file.agent_socket else None
                yield HaproxyFile(namespace, agent, file.user, file.group)


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
