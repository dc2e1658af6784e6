"""What must be there on a node, decided from a `View` and the options: pure (spec 4.2 to 4.9).

The same view and options give the same plan, in whatever order the view lists things.
"""

import dataclasses
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mdmw.node.rules import RouterRules
from mdmw.node.view import Bridge, Router, Subnet, View
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6, Scope
from mdmw.resolvers.contract import NETWORK_OWNER_PREFIX, ROUTER_INTERFACE_OWNERS, Port

METADATA_PORT = 80
#: What radvd is told (P-8).
RA_ROUTE = f"route {METADATA_ADDRESS_V6}/128 {{ }};"
_METADATA_NETWORK = ipaddress.IPv4Network("169.254.0.0/16")
_METADATA_ROUTE = f"{METADATA_ADDRESS}/32"
_ANYWHERE = "0.0.0.0/0"
_OVN_OWNER, _OVN_DEVICE = "network:distributed", "ovnmeta-"
#: What dnsmasq does on an IPv6 subnet: it announces all of them, and gives addresses where nothing is said.
_RANGE_MODES = {"slaac": "ra-only", "dhcpv6-stateless": "ra-stateless"}
_DEVICE_ID_LENGTH = 11  # of a port's id in the name of its device


@dataclass(frozen=True, slots=True)
class Options:
    """The options of dhcp_agent.ini and l3_agent.ini that count (spec 5.2, 5.3), by their names there."""

    force_metadata: bool = False
    enable_isolated_metadata: bool = False
    enable_metadata_network: bool = False
    enable_metadata_proxy: bool = True
    metadata_port: int = 9697
    metadata_access_mark: int = 0x1
    metadata_v4_prefixlen: int = 32
    ha_proxy_always: bool = False
    ipv6: bool = True
    dhcp_lease_duration: int = 86400
    dhcp_device_prefix: str = "tap"


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a namespace is listened in, and whose guests arrive there. `address` "::" takes IPv4 too."""

    address: str
    port: int
    scope: Scope
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """A device of a namespace that is ours to make: a cable to a bridge; `outer` is its end on the host."""

    device: str
    outer: str
    bridge: str
    mac: str
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class DhcpServer:
    """The DHCP that is ours to serve: values of dnsmasq's `--dhcp-range`, and lines of its hosts file."""

    ranges: tuple[str, ...]
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DhcpPlan:
    """What `qdhcp-<network>` needs.

    `addresses` are those of the DHCP port, with prefix length, in order (P-2); `gateways` the
    default routes, at most one per IP version (P-6); `options` the lines of dnsmasq's file (4.5).
    `row` is the row of the table of spec 4.3 that decided whether metadata is served here.
    Without a `wire`, namespace, device and DHCP are Neutron's.
    """

    namespace: str
    network_id: str
    device: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    options: tuple[str, ...]
    listeners: tuple[Listener, ...]
    row: int
    warnings: tuple[str, ...] = ()
    wire: Wire | None = None
    server: DhcpServer | None = None


@dataclass(frozen=True, slots=True)
class RouterPlan:
    """What `qrouter-<router>` needs; `ra_routes` are radvd's route lines for each device (P-8).

    Without `wires`, namespace and devices are Neutron's. `addresses` are (device, address) of the wires.
    """

    namespace: str
    router_id: str
    rules: RouterRules
    listeners: tuple[Listener, ...]
    ra_routes: tuple[tuple[str, str], ...] = ()
    wires: tuple[Wire, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything, sorted by namespace."""

    dhcp: tuple[DhcpPlan, ...] = ()
    routers: tuple[RouterPlan, ...] = field(default=())


def plan(view: View, options: Options) -> Plan:
    """What must be there."""
    known = _Known(view)
    networks = [_Network(network_id, known, options) for network_id in sorted(set(view.networks))]
    dhcp = [network.plan(port) for network in networks for port in network.local_dhcp_ports]
    routers = [_router(router, known, options) for router in sorted(view.routers, key=lambda one: one.id)]
    return Plan(tuple(dhcp), tuple(routers))


def is_isolated(subnet: Subnet, ports: Iterable[Port]) -> bool:
    """P-1: no router's interface has the subnet's gateway address; `ports` are those of its network."""
    return subnet.gateway_ip is None or not any(
        (_normal(subnet.gateway_ip), subnet.id) == (_normal(address), subnet_id)
        for port in ports
        if port.device_owner in ROUTER_INTERFACE_OWNERS
        for address, subnet_id in port.fixed_ips
    )


def serves(subnets: Sequence[Subnet], ports: Sequence[Port], options: Options) -> tuple[bool, int]:
    """Whether the DHCP side serves a network, and the row of the table of spec 4.3 that says so."""
    with_dhcp = [subnet for subnet in subnets if subnet.enable_dhcp]
    if any(_is_ovn_metadata(port) for port in ports):
        return False, 1
    if not with_dhcp:
        return False, 2
    if options.force_metadata:
        return True, 3
    if not options.enable_isolated_metadata:
        return False, 4
    if options.enable_metadata_network and any(is_metadata_subnet(subnet) for subnet in subnets):
        return True, 5
    if any(is_isolated(subnet, ports) for subnet in with_dhcp):
        return True, 6
    return False, 7


def is_metadata_subnet(subnet: Subnet) -> bool:
    """Whether a subnet makes its network a metadata access network (4.9)."""
    network = ipaddress.ip_network(subnet.cidr)
    return isinstance(network, ipaddress.IPv4Network) and network.subnet_of(_METADATA_NETWORK)


class _Known:
    """A view, arranged for look-ups."""

    def __init__(self, view: View) -> None:
        self.dhcp_ports = view.dhcp_ports
        self.subnets = {subnet.id: subnet for subnet in view.subnets}
        self.bridges = {bridge.network_id: bridge for bridge in view.bridges}
        self.subnets_of: dict[str, list[Subnet]] = {}
        self.ports_of: dict[str, list[Port]] = {}
        self.interfaces_of: dict[str, list[Port]] = {}  # of each router
        for subnet in sorted(view.subnets, key=lambda one: one.id):
            self.subnets_of.setdefault(subnet.network_id, []).append(subnet)
        for port in sorted(view.ports, key=lambda one: one.id):
            self.ports_of.setdefault(port.network_id, []).append(port)
            if port.device_owner in ROUTER_INTERFACE_OWNERS:
                self.interfaces_of.setdefault(port.device_id, []).append(port)


class _Network:
    """One network of a view, with what belongs to it in a fixed order."""

    def __init__(self, network_id: str, known: _Known, options: Options) -> None:
        self.id = network_id
        self._options = options
        self._subnets = known.subnets_of.get(network_id, [])
        self._ports = known.ports_of.get(network_id, [])
        self._bridge = known.bridges.get(network_id)
        self.local_dhcp_ports = [port for port in self._ports if port.id in known.dhcp_ports]

    def plan(self, port: Port) -> DhcpPlan:
        """What the namespace of this DHCP port needs."""
        served, row = serves(self._subnets, self._ports, self._options)
        device = device_name(self._options.dhcp_device_prefix, port)
        scope, warnings = self._scope()
        if len(self.local_dhcp_ports) > 1 and self._has_ipv6:
            warnings += (f"network {self.id}: several DHCP ports on this node; IPv6 metadata is left out",)
        return DhcpPlan(
            namespace=f"qdhcp-{self.id}",
            network_id=self.id,
            device=device,
            addresses=tuple(self._addresses(port)),
            gateways=tuple(self._gateways()),
            options=tuple(line for subnet in self._subnets for line in self._option_lines(subnet, port)),
            listeners=tuple(self._listeners(scope, device)) if served else (),
            row=row,
            warnings=warnings if served else (),
            wire=_wire(self._bridge, device, port) if self._bridge else None,
            server=self._server() if self._bridge else None,
        )

    @property
    def _has_ipv6(self) -> bool:
        return self._options.ipv6 and any(subnet.version == 6 for subnet in self._subnets)

    @property
    def _ipv6_metadata(self) -> bool:
        return self._has_ipv6 and len(self.local_dhcp_ports) == 1

    def _scope(self) -> tuple[Scope, tuple[str, ...]]:
        """4.9: a metadata access network speaks for the router that it is attached to."""
        if not (
            self._options.enable_metadata_network
            and any(is_metadata_subnet(subnet) for subnet in self._subnets)
        ):
            return Scope("network", self.id), ()
        routers = [port.device_id for port in self._ports if port.device_owner in ROUTER_INTERFACE_OWNERS]
        if not routers:
            return Scope("network", self.id), ()
        others = sorted(set(routers) - {routers[0]})
        text = f"metadata network {self.id}: router {routers[0]} is served, not {', '.join(others)}"
        return Scope("router", routers[0]), (text,) if others else ()

    def _addresses(self, port: Port) -> Iterable[str]:
        """P-2, P-4: the port's own first, then the metadata addresses."""
        subnets = {subnet.id: subnet for subnet in self._subnets}
        own = [(address, subnets[subnet_id]) for address, subnet_id in port.fixed_ips if subnet_id in subnets]
        yield from (_with_prefix(address, subnet) for address, subnet in own)
        if self._options.force_metadata or self._options.enable_isolated_metadata:
            if METADATA_ADDRESS not in {address for address, _ in own}:
                yield f"{METADATA_ADDRESS}/{self._options.metadata_v4_prefixlen}"
            if self._ipv6_metadata:
                yield f"{METADATA_ADDRESS_V6}/128"

    def _gateways(self) -> Iterable[str]:
        """P-6: the gateway of the first subnet with DHCP, for each IP version."""
        for version in (4, 6):
            found = [
                s.gateway_ip for s in self._subnets if s.version == version and s.enable_dhcp and s.gateway_ip
            ]
            yield from found[:1]

    def _server(self) -> DhcpServer:
        """As Neutron's DHCP agent calls dnsmasq: nobody who is not known gets an address."""
        ranges = []
        for subnet in self._subnets:
            network = ipaddress.ip_network(subnet.cidr)
            if not subnet.enable_dhcp:
                continue
            mode = _RANGE_MODES.get(subnet.ipv6_address_mode or "", "static")
            mask = network.netmask if network.version == 4 else network.prefixlen
            lease = f"{self._options.dhcp_lease_duration}s"
            ranges.append(f"set:subnet-{subnet.id},{network.network_address},{mode},{mask},{lease}")
        return DhcpServer(tuple(ranges), tuple(self._hosts()))

    def _hosts(self) -> Iterable[str]:
        served = {subnet.id for subnet in self._subnets if subnet.enable_dhcp}
        for port in self._ports:
            if port.device_owner.startswith(NETWORK_OWNER_PREFIX):
                continue
            for address, subnet_id in port.fixed_ips:
                if subnet_id in served:
                    name = "host-" + address.replace(".", "-").replace(":", "-")
                    yield f"{port.mac},{name},{f'[{address}]' if ':' in address else address}"

    def _listeners(self, scope: Scope, device: str) -> Iterable[Listener]:
        yield Listener(METADATA_ADDRESS, METADATA_PORT, scope)
        if self._ipv6_metadata:
            yield Listener(METADATA_ADDRESS_V6, METADATA_PORT, scope, device)

    def _option_lines(self, subnet: Subnet, port: Port) -> Iterable[str]:
        """Spec 4.5, for one subnet."""
        if not subnet.enable_dhcp:
            return
        tag = f"tag:subnet-{subnet.id}"
        if subnet.version == 6:
            # To be announced by ours; where that is Neutron's radvd, it is told by Neutron.
            if subnet.dns_nameservers and (self._bridge or subnet.ipv6_address_mode != "slaac"):
                servers = ",".join(f"[{server}]" for server in subnet.dns_nameservers)
                yield f"{tag},option6:dns-server,{servers}"
            return
        if subnet.dns_nameservers:
            yield f"{tag},option:dns-server,{','.join(subnet.dns_nameservers)}"
        routes, gateway = self._routes(subnet, port)
        if routes:
            text = ",".join(f"{destination},{hop}" for destination, hop in routes)
            yield f"{tag},option:classless-static-route,{text}"
            yield f"{tag},249,{text}"
        yield f"{tag},option:router,{gateway}" if gateway else f"{tag},option:router"

    def _routes(self, subnet: Subnet, port: Port) -> tuple[list[tuple[str, str]], str | None]:
        gateway = subnet.gateway_ip
        routes = [
            (other.cidr, "0.0.0.0")  # noqa: S104 - "on this link" in option 121
            for other in self._subnets
            if other.id != subnet.id and other.version == 4 and other.segment_id == subnet.segment_id
        ]
        for destination, hop in subnet.host_routes:
            if destination == _ANYWHERE:
                gateway = gateway or hop
            else:
                routes.append((destination, hop))
        hop_to_metadata = self._metadata_hop(subnet, port)
        if hop_to_metadata and (_METADATA_ROUTE, hop_to_metadata) not in routes:
            routes.append((_METADATA_ROUTE, hop_to_metadata))
        if routes and gateway:
            routes.append((_ANYWHERE, gateway))  # who gets option 121 ignores option 3 (RFC 3442)
        return routes, gateway

    def _metadata_hop(self, subnet: Subnet, port: Port) -> str | None:
        ovn = next((p for p in self._ports if _is_ovn_metadata(p)), None)
        if ovn:
            return _address_on(ovn, subnet)
        isolated = is_isolated(subnet, self._ports)
        if self._options.force_metadata or (isolated and self._options.enable_isolated_metadata):
            return _address_on(port, subnet)
        return None if isolated else subnet.gateway_ip


def _router(router: Router, known: _Known, options: Options) -> RouterPlan:
    interfaces, subnets, bridges = known.interfaces_of.get(router.id, []), known.subnets, known.bridges

    def has(port: Port, wanted: Callable[[Subnet], bool]) -> bool:
        """Whether a fixed address of `port` is on a subnet for which `wanted` holds."""
        return any(subnet_id in subnets and wanted(subnets[subnet_id]) for _, subnet_id in port.fixed_ips)

    to_metadata_network = tuple(
        device_name("qr-", port) for port in interfaces if has(port, is_metadata_subnet)
    )
    rules = RouterRules(
        mark=options.metadata_access_mark,
        redirect_to=options.metadata_port if options.enable_metadata_proxy else None,
        forward_to=() if options.enable_metadata_proxy else to_metadata_network,  # P-16
        ipv6=options.ipv6,
    )
    runs = options.enable_metadata_proxy and (
        router.distributed or not router.ha or router.is_primary or options.ha_proxy_always
    )
    address = "::" if options.ipv6 else "0.0.0.0"  # noqa: S104 - its rules keep others out (P-7)
    listener = Listener(address, options.metadata_port, Scope("router", router.id))
    ra_routes = tuple(
        (device_name("qr-", port), RA_ROUTE)
        for port in interfaces
        if options.ipv6 and has(port, lambda subnet: subnet.version == 6)
    )
    wired = [port for port in interfaces if port.network_id in bridges]
    return RouterPlan(
        namespace=f"qrouter-{router.id}",
        router_id=router.id,
        rules=rules,
        listeners=(listener,) if runs else (),
        ra_routes=ra_routes,
        wires=tuple(_wire(bridges[port.network_id], device_name("qr-", port), port) for port in wired),
        addresses=tuple(
            (device_name("qr-", port), _with_prefix(address, subnets[subnet_id]))
            for port in wired
            for address, subnet_id in port.fixed_ips
            if subnet_id in subnets
        ),
    )


def _wire(bridge: Bridge, device: str, port: Port) -> Wire:
    return Wire(device, device_name("mdmw", port), bridge.name, port.mac, bridge.mtu)


def device_name(prefix: str, port: Port) -> str:
    """The name of a port's device on the node: `tap` or `qr-`, and the start of its id."""
    return f"{prefix}{port.id[:_DEVICE_ID_LENGTH]}"


def _is_ovn_metadata(port: Port) -> bool:
    return port.device_owner == _OVN_OWNER and port.device_id == f"{_OVN_DEVICE}{port.network_id}"


def _address_on(port: Port, subnet: Subnet) -> str | None:
    return next((address for address, subnet_id in port.fixed_ips if subnet_id == subnet.id), None)


def _with_prefix(address: str, subnet: Subnet) -> str:
    return f"{address}/{ipaddress.ip_network(subnet.cidr).prefixlen}"


def _normal(address: str) -> str:
    return str(ipaddress.ip_address(address))


T = TypeVar("T")
Check = Callable[[Any], T]

LONGEST = 64 * 1024 * 1024  # characters
_MOST = 100_000  # of anything in a list
_UUID = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_MAC = "[0-9a-f]{2}(?::[0-9a-f]{2}){5}"
_PORT_START = "[0-9a-fA-F-]{11}"
_ADDRESS = "[0-9a-fA-F.:]{2,45}"
_MODES = "(?:static|ra-only|ra-stateless)"


def dumps(plan: Plan) -> str:
    """JSON."""
    return json.dumps(dataclasses.asdict(plan))


def loads(text: str) -> Plan:
    """Raises ValueError, one line, for anything that is not a plan."""
    if len(text) > LONGEST:
        raise ValueError(f"a plan of more than {LONGEST} characters")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("a plan that is nested too deep") from None
    plan = _PLAN(value)
    for dhcp in plan.dhcp:
        _require(dhcp.namespace == f"qdhcp-{dhcp.network_id}", "a namespace of another network")
        for place in dhcp.listeners:
            _require(place.address in _METADATA and place.port == 80, "a listener where no guest is served")
    for router in plan.routers:
        _require(router.namespace == f"qrouter-{router.router_id}", "a namespace of another router")
        for place in router.listeners:
            _require(place.address in _ANY, "a listener where no guest is served")
            _require(place.port == router.rules.redirect_to, "a listener that the rules do not guard")
            _require(place.scope == Scope("router", router.router_id), "a listener of another router")
    return plan


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


# --- checks -----------------------------------------------------------------------------


def _text(what: str, pattern: str) -> Check[str]:
    expression = re.compile(pattern)

    def check(value: Any) -> str:
        _require(isinstance(value, str) and expression.fullmatch(value) is not None, f"not {what}")
        return str(value)

    return check


def _parsed(what: str, parse: Callable[[str], object]) -> Check[str]:
    is_text = _text(what, "[0-9a-fA-F.:/]{2,49}")

    def check(value: Any) -> str:
        text = is_text(value)
        try:
            parse(text)
        except ValueError:
            raise ValueError(f"not {what}") from None
        return text

    return check


def _number(lowest: int, highest: int) -> Check[int]:
    def check(value: Any) -> int:
        _require(type(value) is int and lowest <= value <= highest, f"not a number to {highest}")
        return int(value)

    return check


def _flag(value: Any) -> bool:
    _require(isinstance(value, bool), "neither true nor false")
    return bool(value)


def _optional(check: Check[T]) -> Check[T | None]:
    return lambda value: None if value is None else check(value)


def _list(check: Check[T]) -> Check[tuple[T, ...]]:
    def check_all(value: Any) -> tuple[T, ...]:
        _require(isinstance(value, list) and len(value) <= _MOST, "not a list")
        return tuple(check(item) for item in value)

    return check_all


def _pair(first: Check[str], second: Check[str]) -> Check[tuple[str, str]]:
    def check(value: Any) -> tuple[str, str]:
        _require(isinstance(value, list) and len(value) == 2, "not a pair")
        return first(value[0]), second(value[1])

    return check


def _record(make: Callable[..., T], checks: Mapping[str, Check[Any]]) -> Check[T]:
    """An object with exactly these fields."""

    def check(value: Any) -> T:
        _require(isinstance(value, dict) and value.keys() == checks.keys(), f"not a {make.__name__}")
        fields = {}
        for name, check_field in checks.items():
            try:
                fields[name] = check_field(value[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return make(**fields)

    return check


# --- the form of a plan -----------------------------------------------------------------

_METADATA = (METADATA_ADDRESS, METADATA_ADDRESS_V6)
_ANY = ("0.0.0.0", "::")  # noqa: S104 - its rules keep others out (P-7)

_uuid = _text("a UUID", _UUID)
_line = _text("a line of text", "[ -~]{1,1000}")
_plan_text_with_prefix = _parsed("an address with prefix length", ipaddress.ip_interface)
_address = _parsed("an address", ipaddress.ip_address)
_device = _text("a device of a port", f"(?:tap|ns-|qr-){_PORT_START}")
_qr_device = _text("a router's device", f"qr-{_PORT_START}")

_SCOPE = _record(Scope, {"kind": _text("a scope", "network|router"), "id": _uuid})
_LISTENER = _record(
    Listener,
    {"address": _address, "port": _number(1, 65535), "scope": _SCOPE, "device": _optional(_device)},
)
_WIRE = _record(
    Wire,
    {
        "device": _device,
        "outer": _text("a device of ours", f"mdmw{_PORT_START}"),
        "bridge": _text("a bridge", "[A-Za-z0-9][A-Za-z0-9_.-]{0,14}"),
        "mac": _text("a MAC address", _MAC),
        "mtu": _optional(_number(68, 65535)),
    },
)
_SERVER = _record(
    DhcpServer,
    {
        "ranges": _list(
            _text("a range", f"set:subnet-{_UUID},{_ADDRESS},{_MODES},[0-9.]{{1,15}},[0-9]{{1,10}}s")
        ),
        "hosts": _list(_text("a host", rf"{_MAC},host-[0-9a-f-]{{2,45}},\[?{_ADDRESS}\]?")),
    },
)
_DHCP = _record(
    DhcpPlan,
    {
        "namespace": _text("a namespace of a network", f"qdhcp-{_UUID}"),
        "network_id": _uuid,
        "device": _device,
        "addresses": _list(_plan_text_with_prefix),
        "gateways": _list(_address),
        "options": _list(_line),
        "listeners": _list(_LISTENER),
        "row": _number(1, 7),
        "warnings": _list(_line),
        "wire": _optional(_WIRE),
        "server": _optional(_SERVER),
    },
)
_RULES = _record(
    RouterRules,
    {
        "mark": _number(1, 0xFFFF),
        "redirect_to": _optional(_number(1, 65535)),
        "forward_to": _list(_qr_device),
        "ipv6": _flag,
    },
)
_ROUTER = _record(
    RouterPlan,
    {
        "namespace": _text("a namespace of a router", f"qrouter-{_UUID}"),
        "router_id": _uuid,
        "rules": _RULES,
        "listeners": _list(_LISTENER),
        "ra_routes": _list(_pair(_qr_device, _text("a route", re.escape(RA_ROUTE)))),
        "wires": _list(_WIRE),
        "addresses": _list(_pair(_qr_device, _plan_text_with_prefix)),
    },
)
_PLAN = _record(Plan, {"dhcp": _list(_DHCP), "routers": _list(_ROUTER)})
