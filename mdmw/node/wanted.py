"""What a plan means for one namespace, DHCP or router alike."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mdmw.node.actions import Firewall
from mdmw.node.dnsmasq import NeutronOptions, dnsmasq
from mdmw.node.plan import DhcpPlan, Plan, RouterPlan, Wire
from mdmw.node.program import Program
from mdmw.node.radvd import radvd
from mdmw.node.rules import RouterRules
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6

_METADATA = (METADATA_ADDRESS, METADATA_ADDRESS_V6)
#: P-3; set for the host where it cannot be set for a namespace. Our listeners do without (IP_FREEBIND).
NONLOCAL_BIND = "ipv4/ip_nonlocal_bind"


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are on this node, and with what they are made.

    `neutron_dhcp` is the directory in which Neutron's DHCP agent keeps one for each network;
    None leaves its files alone.
    """

    state: Path = Path("/var/lib/mdmw/node")
    neutron_dhcp: Path | None = None
    firewall: Firewall = "nftables"

    def marker(self, namespace: str) -> Path:
        """The file that says what we made."""
        return self.state / f"{namespace}.json"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What must be in a namespace; one of which nothing is wanted has only its name.

    `wires`: devices of ours; without any, namespace and devices are somebody else's, and must be
    there. `addresses`: device -> addresses with prefix length, in order. `gateways`: (device, address).
    """

    namespace: str
    wires: tuple[Wire, ...] = ()
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gateways: frozenset[tuple[str, str]] = frozenset()
    sysctls: dict[str, str] = field(default_factory=dict)
    rules: RouterRules | None = None
    program: Program | None = None
    neutron_options: NeutronOptions | None = None


def wanted(plan: Plan, places: Places) -> dict[str, Wanted]:
    """By namespace."""
    return {one.namespace: one for one in each_wanted(plan, places)}


def each_wanted(plan: Plan, places: Places) -> Iterator[Wanted]:
    """One namespace after the other, which is less memory than all of them."""
    shared: dict[str, list[DhcpPlan]] = {}  # two DHCP ports of a network share one (LP#1989979)
    for dhcp in plan.dhcp:
        shared.setdefault(dhcp.namespace, []).append(dhcp)
    for ports in shared.values():
        found = [_dhcp(port, places) for port in ports]
        addresses = {device: addresses for one in found for device, addresses in one.addresses.items()}
        yield replace(found[-1], addresses=addresses)
    yield from (_router(router, places) for router in plan.routers)


def nothing_wanted(namespace: str, places: Places) -> Wanted:
    """That nothing of ours be left in a namespace, and in the files of Neutron's dnsmasq."""
    kind, _, network_id = namespace.partition("-")
    if kind != "qdhcp" or places.neutron_dhcp is None:
        return Wanted(namespace)
    return Wanted(namespace, neutron_options=NeutronOptions(places.neutron_dhcp / network_id, ()))


def _dhcp(plan: DhcpPlan, places: Places) -> Wanted:
    if plan.wire is None or plan.server is None:
        neutron = places.neutron_dhcp / plan.network_id if places.neutron_dhcp else None
        return Wanted(
            plan.namespace,
            addresses={plan.device: tuple(text for text in plan.addresses if _address(text) in _METADATA)},
            sysctls={NONLOCAL_BIND: "1"} if plan.listeners else {},
            neutron_options=NeutronOptions(neutron, plan.options) if neutron else None,
        )
    own = {_address(text) for text in plan.addresses}
    has_dhcp = bool(plan.server.ranges)
    return Wanted(
        plan.namespace,
        wires=(plan.wire,),
        addresses={plan.device: plan.addresses},
        gateways=frozenset((plan.device, gateway) for gateway in plan.gateways if gateway not in own),
        sysctls={
            NONLOCAL_BIND: "1",
            "ipv6/conf/default/accept_ra": "0",
            f"ipv6/conf/{plan.device}/accept_ra": "0",
        },
        program=dnsmasq(plan, plan.server, places.state / plan.namespace) if has_dhcp else None,
    )


def _router(plan: RouterPlan, places: Places) -> Wanted:
    if not plan.wires:
        return Wanted(plan.namespace, rules=plan.rules)
    addresses: dict[str, tuple[str, ...]] = {wire.device: () for wire in plan.wires}
    for device, address in plan.addresses:
        addresses[device] += (address,)
    return Wanted(
        plan.namespace,
        wires=plan.wires,
        addresses=addresses,
        sysctls={"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"},
        rules=plan.rules,
        program=radvd(plan, places.state / plan.namespace) if plan.ra_routes else None,
    )


def _address(text: str) -> str:
    return str(ipaddress.ip_interface(text).ip)
