"""The desired state of each namespace, made from a plan: devices, addresses, rules, programs and files.

Pure: nothing is read or changed. Also the text of the files of dnsmasq and radvd.
"""

import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mdmw.node.plan import DhcpPlan, DhcpServer, Plan, RouterPlan, RouterRules, Wire
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6

Firewall = Literal["nftables", "iptables"]
FIREWALLS: tuple[Firewall, ...] = ("nftables", "iptables")
#: P-3. Where the kernel has no such value for a namespace, the host's value is set. The listeners of mdmw do
#: without it (IP_FREEBIND).
NONLOCAL_BIND = "ipv4/ip_nonlocal_bind"

_METADATA_ADDRESSES = (METADATA_ADDRESS, METADATA_ADDRESS_V6)
#: As often as Neutron's radvd announces a router.
_ADVERTISE = "AdvSendAdvert on; MinRtrAdvInterval 30; MaxRtrAdvInterval 100;"
_MOST_LEASES = 65536
_IPV6_OPTION = ",option6:"
_ROUTE_OPTIONS = ("option:classless-static-route", "249")


@dataclass(frozen=True, slots=True)
class Places:
    """Where mdmw keeps its files on this node, and which tool writes the packet-filter rules.

    `neutron_dhcp` is the directory in which Neutron's DHCP agent has one directory for each network. With
    None the files of that agent are not touched.
    """

    state: Path = Path("/var/lib/mdmw/node")
    neutron_dhcp: Path | None = None
    firewall: Firewall = "nftables"

    def marker(self, namespace: str) -> Path:
        """The file that records what mdmw made for a namespace."""
        return self.state / f"{namespace}.json"


@dataclass(frozen=True, slots=True)
class Program:
    """dnsmasq or radvd: its directory, its command line, and the files that it reads again on SIGHUP.

    The program goes into the background when it serves, and writes a pid file.
    """

    directory: Path
    argv: tuple[str, ...]
    files: tuple[tuple[Path, str], ...]

    @property
    def name(self) -> str:
        """The name of the program, without a path."""
        return self.argv[0]

    @property
    def pid_file(self) -> Path:
        """The pid file that the program writes."""
        return self.directory / "pid"


@dataclass(frozen=True, slots=True)
class NeutronOptions:
    """The options file of Neutron's dnsmasq, and the lines that the dnsmasq of mdmw would have there."""

    directory: Path
    lines: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The options file."""
        return self.directory / "opts"

    @property
    def pid_file(self) -> Path:
        """The pid file that Neutron's dnsmasq writes."""
        return self.directory / "pid"


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What mdmw must provide in a namespace. With only a name, nothing of mdmw must be there.

    `wires` are the devices that mdmw makes. Without `wires`, Neutron's agents make the namespace and its
    devices. `addresses` maps a device to its addresses with prefix length, in order. `gateways` has pairs of
    a device and the address of its default gateway. `sysctls` maps names below /proc/sys/net to values.
    """

    namespace: str
    wires: tuple[Wire, ...] = ()
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gateways: frozenset[tuple[str, str]] = frozenset()
    sysctls: dict[str, str] = field(default_factory=dict)
    rules: RouterRules | None = None
    program: Program | None = None
    neutron_options: NeutronOptions | None = None


def desired_states(plan: Plan, places: Places) -> dict[str, DesiredState]:
    """The desired state of each namespace in a plan, by namespace."""
    return {one.namespace: one for one in each_desired_state(plan, places)}


def each_desired_state(plan: Plan, places: Places) -> Iterator[DesiredState]:
    """The same states one after the other, which needs less memory than all at once."""
    shared: dict[str, list[DhcpPlan]] = {}  # two DHCP ports of a network share a namespace (LP#1989979)
    for dhcp in plan.dhcp:
        shared.setdefault(dhcp.namespace, []).append(dhcp)
    for ports in shared.values():
        found = [_dhcp(port, places) for port in ports]
        addresses = {device: addresses for one in found for device, addresses in one.addresses.items()}
        yield replace(found[-1], addresses=addresses)
    yield from (_router(router, places) for router in plan.routers)


def nothing_desired(namespace: str, places: Places) -> DesiredState:
    """The state in which nothing of mdmw is left in a namespace and in the files of Neutron's dnsmasq."""
    kind, _, network_id = namespace.partition("-")
    if kind != "qdhcp" or places.neutron_dhcp is None:
        return DesiredState(namespace)
    return DesiredState(namespace, neutron_options=NeutronOptions(places.neutron_dhcp / network_id, ()))


def _dhcp(plan: DhcpPlan, places: Places) -> DesiredState:
    if plan.wire is None or plan.server is None:
        neutron = places.neutron_dhcp / plan.network_id if places.neutron_dhcp else None
        return DesiredState(
            plan.namespace,
            addresses={
                plan.device: tuple(text for text in plan.addresses if _address(text) in _METADATA_ADDRESSES)
            },
            sysctls={NONLOCAL_BIND: "1"} if plan.listeners else {},
            neutron_options=NeutronOptions(neutron, plan.options) if neutron else None,
        )
    own = {_address(text) for text in plan.addresses}
    has_dhcp = bool(plan.server.ranges)
    return DesiredState(
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


def _router(plan: RouterPlan, places: Places) -> DesiredState:
    if not plan.wires:
        return DesiredState(plan.namespace, rules=plan.rules)
    addresses: dict[str, tuple[str, ...]] = {wire.device: () for wire in plan.wires}
    for device, address in plan.addresses:
        addresses[device] += (address,)
    return DesiredState(
        plan.namespace,
        wires=plan.wires,
        addresses=addresses,
        sysctls={"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"},
        rules=plan.rules,
        program=radvd(plan, places.state / plan.namespace) if plan.ra_routes else None,
    )


def _address(text: str) -> str:
    return str(ipaddress.ip_interface(text).ip)


# --- dnsmasq and radvd ------------------------------------------------------------------


def dnsmasq(plan: DhcpPlan, server: DhcpServer, directory: Path) -> Program:
    """The dnsmasq of a network. Its command line stays the same as long as the subnets do.

    It announces IPv6 subnets, but no default route: that is for the radvd of a router.
    """
    hosts, options = directory / "hosts", directory / "opts"
    ipv6 = [line for line in plan.options if _IPV6_OPTION in line]
    has_ipv6 = any(":" in text.partition(",")[2] for text in server.ranges)
    argv = (
        "dnsmasq",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--except-interface=lo",
        f"--interface={plan.device}",
        "--bind-dynamic",  # with --bind-interfaces dnsmasq fails on a tentative IPv6 address
        f"--pid-file={directory / 'pid'}",
        f"--dhcp-hostsfile={hosts}",
        f"--dhcp-optsfile={options}",
        f"--dhcp-leasefile={directory / 'leases'}",
        f"--dhcp-lease-max={_MOST_LEASES}",
        "--dhcp-authoritative",
        *(("--enable-ra", f"--ra-param={plan.device},0,0") if has_ipv6 else ()),
        *(
            f"--dhcp-option={line}" for line in ipv6
        ),  # dnsmasq does not read them from a file for a subnet that it only announces
        *(f"--dhcp-range={text}" for text in server.ranges),
    )
    lines = [line for line in plan.options if line not in ipv6]
    return Program(directory, argv, ((hosts, _lines(server.hosts)), (options, _lines(lines))))


def radvd(plan: RouterPlan, directory: Path) -> Program:
    """The radvd of a router: it announces the router as default route, and the routes of the plan.

    dnsmasq announces the subnets.
    """
    file = directory / "radvd.conf"
    argv = ("radvd", "-C", str(file), "-p", str(directory / "pid"), "-m", "stderr_clean", "-u", "nobody")
    parts = [f"interface {device} {{ {_ADVERTISE} {route} }};\n" for device, route in plan.ra_routes]
    return Program(directory, argv, ((file, "".join(parts)),))


def merged(current: str, lines: Sequence[str], *, restore: bool) -> str:
    """Neutron's options file, with the routes of `lines` (options 121 and 249) in place of Neutron's routes.

    A subnet without routes in `lines` keeps the routes in `current`. With `restore`, these may be routes that
    mdmw wrote, and then the route to the metadata address is removed. The default gateway stays as it is.
    """
    own = {_subject(line): line for line in lines if _is_route(line)}
    kept = []
    for line in current.splitlines():
        if _is_route(line):
            line = own.pop(_subject(line), _without_metadata_route(line) if restore else line)
        kept += [line] if line else []
    return _lines([*kept, *own.values()])


def _without_metadata_route(line: str) -> str:
    """A line without the metadata route to a DHCP port; empty if no route is left.

    A metadata route to the gateway is Neutron's, and stays (spec 4.5).
    """
    tag, option, *rest = line.split(",")
    routes = list(zip(rest[::2], rest[1::2], strict=False))
    gateways = [hop for destination, hop in routes if destination == "0.0.0.0/0"]
    kept = [(to, hop) for to, hop in routes if to != f"{METADATA_ADDRESS}/32" or hop in gateways]
    if kept == routes:
        return line
    if all(to == "0.0.0.0/0" for to, _ in kept):
        return ""
    return ",".join([tag, option, *itertools.chain(*kept)])


def _is_route(line: str) -> bool:
    return line.split(",", 2)[1:2] != [] and line.split(",", 2)[1] in _ROUTE_OPTIONS


def _subject(line: str) -> str:
    """The tag and the option of a line."""
    return ",".join(line.split(",", 2)[:2])


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
