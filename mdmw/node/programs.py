"""A program that serves a namespace, as a value."""

import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mdmw.node.actions import Firewall
from mdmw.node.plan import DhcpPlan, DhcpServer, Plan, RouterPlan, Wire
from mdmw.node.rules import RouterRules
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6


@dataclass(frozen=True, slots=True)
class Program:
    """dnsmasq or radvd: its directory, what it is called with, and the files that it reads again on SIGHUP.

    It goes into the background once it serves, and writes a pid file.
    """

    directory: Path
    argv: tuple[str, ...]
    files: tuple[tuple[Path, str], ...]

    @property
    def name(self) -> str:
        """Without a path."""
        return self.argv[0]

    @property
    def pid_file(self) -> Path:
        """Written by the program."""
        return self.directory / "pid"


_ALWAYS = "AdvSendAdvert on; MinRtrAdvInterval 30; MaxRtrAdvInterval 100;"


def radvd(plan: RouterPlan, directory: Path) -> Program:
    """The radvd of a router: itself as a way out, and its routes. The subnets dnsmasq announces.

    As often as Neutron's.
    """
    file = directory / "radvd.conf"
    argv = ("radvd", "-C", str(file), "-p", str(directory / "pid"), "-m", "stderr_clean", "-u", "nobody")
    parts = [f"interface {device} {{ {_ALWAYS} {route} }};\n" for device, route in plan.ra_routes]
    return Program(directory, argv, ((file, "".join(parts)),))


_MOST_LEASES = 65536
_IPV6_OPTION = ",option6:"
_ROUTES = ("option:classless-static-route", "249")


@dataclass(frozen=True, slots=True)
class NeutronOptions:
    """The options file of Neutron's dnsmasq, and the lines that ours would have."""

    directory: Path
    lines: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The options file."""
        return self.directory / "opts"

    @property
    def pid_file(self) -> Path:
        """Written by Neutron's dnsmasq."""
        return self.directory / "pid"


def dnsmasq(plan: DhcpPlan, server: DhcpServer, directory: Path) -> Program:
    """The dnsmasq of a network; nothing of it changes while the subnets stay the same.

    It announces IPv6 subnets, and no way out: of routers it knows nothing.
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
        "--bind-dynamic",  # --bind-interfaces ends at an IPv6 address that is still tentative
        f"--pid-file={directory / 'pid'}",
        f"--dhcp-hostsfile={hosts}",
        f"--dhcp-optsfile={options}",
        f"--dhcp-leasefile={directory / 'leases'}",
        f"--dhcp-lease-max={_MOST_LEASES}",
        "--dhcp-authoritative",
        *(("--enable-ra", f"--ra-param={plan.device},0,0") if has_ipv6 else ()),
        *(f"--dhcp-option={line}" for line in ipv6),  # it reads no file where it only announces
        *(f"--dhcp-range={text}" for text in server.ranges),
    )
    lines = [line for line in plan.options if line not in ipv6]
    return Program(directory, argv, ((hosts, _lines(server.hosts)), (options, _lines(lines))))


def merged(current: str, lines: Sequence[str], *, restore: bool) -> str:
    """Neutron's options file with our routes (options 121 and 249) in place of its own.

    Where we have none Neutron's stay, unless they may be ours, as `restore` says: then the one
    to the metadata address goes. The default gateway is Neutron's.
    """
    ours = {_subject(line): line for line in lines if _is_route(line)}
    kept = []
    for line in current.splitlines():
        if _is_route(line):
            line = ours.pop(_subject(line), _without_ours(line) if restore else line)
        kept += [line] if line else []
    return _lines([*kept, *ours.values()])


def _without_ours(line: str) -> str:
    """Without the route to a DHCP port; one to the gateway is Neutron's (4.5). Empty if none is left."""
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
    return line.split(",", 2)[1:2] != [] and line.split(",", 2)[1] in _ROUTES


def _subject(line: str) -> str:
    """Tag and option."""
    return ",".join(line.split(",", 2)[:2])


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


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
