"""The plan of a node: what each namespace needs so that guests get metadata (spec 4.2 to 4.9).

`plan` makes a plan from a `NodeView` and the options, without any I/O. The same view and options give the
same plan, whatever the order of the lists in the view. `dumps` and `loads` turn a plan into text and back:
the planner sends this text, and the process that applies a plan as root checks every field of it.
"""

import dataclasses
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mdmw.node.view import Bridge, NodeView, RouterView, SubnetView
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6, Scope
from mdmw.resolvers.contract import NETWORK_OWNER_PREFIX, ROUTER_INTERFACE_OWNERS, Port

T = TypeVar("T")
Check = Callable[[Any], T]

METADATA_PORT = 80
#: Line for radvd that announces the metadata address (P-8).
RA_ROUTE = f"route {METADATA_ADDRESS_V6}/128 {{ }};"
_METADATA_NETWORK = ipaddress.IPv4Network("169.254.0.0/16")
_METADATA_ROUTE = f"{METADATA_ADDRESS}/32"
_ANYWHERE = "0.0.0.0/0"
_OVN_OWNER, _OVN_DEVICE = "network:distributed", "ovnmeta-"
#: `ipv6_address_mode` of a subnet -> mode of dnsmasq. In every other mode dnsmasq gives out addresses.
_RANGE_MODES = {"slaac": "ra-only", "dhcpv6-stateless": "ra-stateless"}
_DEVICE_ID_LENGTH = 11  # characters of a port's id in the name of its device

LONGEST = 64 * 1024 * 1024  # characters of a plan as text
_MOST_ITEMS = 100_000  # in one list of a plan
_UUID = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_MAC = "[0-9a-f]{2}(?::[0-9a-f]{2}){5}"
_PORT_START = "[0-9a-fA-F-]{11}"
_ADDRESS = "[0-9a-fA-F.:]{2,45}"
_MODES = "(?:static|ra-only|ra-stateless)"
_METADATA_ADDRESSES = (METADATA_ADDRESS, METADATA_ADDRESS_V6)
_ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - the rules of the router keep others out (P-7)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of Neutron's dhcp_agent.ini and l3_agent.ini that a plan depends on (spec 5.2, 5.3)."""

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
class PlannedListener:
    """A listening socket that a namespace needs. `scope` says whose guests arrive. "::" is for IPv4 too."""

    address: str
    port: int
    scope: Scope
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """A veth pair that mdmw makes: `device` in the namespace, and `outer` on the host, a port of `bridge`."""

    device: str
    outer: str
    bridge: str
    mac: str
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class DhcpServer:
    """What the dnsmasq of mdmw serves: values of its option `--dhcp-range`, and lines of its hosts file."""

    ranges: tuple[str, ...]
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DhcpPlan:
    """What the namespace `qdhcp-<network>` needs.

    `addresses` has the addresses of the DHCP port with prefix length, in order (P-2). `gateways` has the
    default routes, at most one for each IP version (P-6). `options` has the lines of dnsmasq's options file
    (4.5). `row` is the row of the table in spec 4.3 that decided whether metadata is served here. Without a
    `wire`, Neutron makes the namespace and the device, and serves DHCP.
    """

    namespace: str
    network_id: str
    device: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    options: tuple[str, ...]
    listeners: tuple[PlannedListener, ...]
    row: int
    warnings: tuple[str, ...] = ()
    wire: Wire | None = None
    server: DhcpServer | None = None


@dataclass(frozen=True, slots=True)
class RouterRules:
    """What the firewall of a router does with packets from guests to the metadata address (P-7, P-16).

    The packets are always marked with `mark`. `redirect_to` is the port of the local listener, or None
    without one. Marked packets leave the router only by the devices in `forward_to`, and lose the mark there:
    Neutron's L3 agent has rules after these, which drop marked packets.
    """

    mark: int = 0x1
    redirect_to: int | None = 9697
    forward_to: tuple[str, ...] = ()
    ipv6: bool = True

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that the rules are for: 4, or 4 and 6."""
        return (4, 6) if self.ipv6 else (4,)


@dataclass(frozen=True, slots=True)
class RouterPlan:
    """What the namespace `qrouter-<router>` needs.

    `ra_routes` has pairs of a device and a line for radvd (P-8). `addresses` has pairs of a device and an
    address with prefix length, for the devices of `wires`. Without `wires`, Neutron makes the namespace and
    the devices.
    """

    namespace: str
    router_id: str
    rules: RouterRules
    listeners: tuple[PlannedListener, ...]
    ra_routes: tuple[tuple[str, str], ...] = ()
    wires: tuple[Wire, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What all namespaces of the node need, sorted by namespace."""

    dhcp: tuple[DhcpPlan, ...] = ()
    routers: tuple[RouterPlan, ...] = field(default=())


def plan(view: NodeView, options: Options) -> Plan:
    """What the node needs."""
    index = _Index(view)
    networks = [_Network(network_id, index, options) for network_id in sorted(set(view.networks))]
    dhcp = [network.plan(port) for network in networks for port in network.local_dhcp_ports]
    routers = [_router(router, index, options) for router in sorted(view.routers, key=lambda one: one.id)]
    return Plan(tuple(dhcp), tuple(routers))


def is_isolated(subnet: SubnetView, ports: Iterable[Port]) -> bool:
    """Whether no router interface has the gateway address of the subnet (P-1). `ports`: of its network."""
    return subnet.gateway_ip is None or not any(
        (_normal(subnet.gateway_ip), subnet.id) == (_normal(address), subnet_id)
        for port in ports
        if port.device_owner in ROUTER_INTERFACE_OWNERS
        for address, subnet_id in port.fixed_ips
    )


def serves(subnets: Sequence[SubnetView], ports: Sequence[Port], options: Options) -> tuple[bool, int]:
    """Whether the DHCP namespace serves the network, and the row of the table in spec 4.3 that says so."""
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


def is_metadata_subnet(subnet: SubnetView) -> bool:
    """Whether the subnet makes its network a metadata access network (spec 4.9)."""
    network = ipaddress.ip_network(subnet.cidr)
    return isinstance(network, ipaddress.IPv4Network) and network.subnet_of(_METADATA_NETWORK)


class _Index:
    """The parts of a view by id, network and router."""

    def __init__(self, view: NodeView) -> None:
        self.dhcp_ports = view.dhcp_ports
        self.subnets = {subnet.id: subnet for subnet in view.subnets}
        self.bridges = {bridge.network_id: bridge for bridge in view.bridges}
        self.subnets_of: dict[str, list[SubnetView]] = {}
        self.ports_of: dict[str, list[Port]] = {}
        self.interfaces_of: dict[str, list[Port]] = {}  # by router
        for subnet in sorted(view.subnets, key=lambda one: one.id):
            self.subnets_of.setdefault(subnet.network_id, []).append(subnet)
        for port in sorted(view.ports, key=lambda one: one.id):
            self.ports_of.setdefault(port.network_id, []).append(port)
            if port.device_owner in ROUTER_INTERFACE_OWNERS:
                self.interfaces_of.setdefault(port.device_id, []).append(port)


class _Network:
    """One network of a view, with its subnets and ports in a fixed order."""

    def __init__(self, network_id: str, index: _Index, options: Options) -> None:
        self.id = network_id
        self._options = options
        self._subnets = index.subnets_of.get(network_id, [])
        self._ports = index.ports_of.get(network_id, [])
        self._bridge = index.bridges.get(network_id)
        self.local_dhcp_ports = [port for port in self._ports if port.id in index.dhcp_ports]

    def plan(self, port: Port) -> DhcpPlan:
        """What the namespace of this DHCP port needs."""
        served, row = serves(self._subnets, self._ports, self._options)
        device = device_name(self._options.dhcp_device_prefix, port)
        scope, warnings = self._scope()
        if len(self.local_dhcp_ports) > 1 and self._has_ipv6:
            warnings += (f"network {self.id}: no IPv6 metadata, because several DHCP ports are on this node",)
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
        """Whose guests the network's listeners serve: the router of a metadata access network (spec 4.9)."""
        if not (
            self._options.enable_metadata_network
            and any(is_metadata_subnet(subnet) for subnet in self._subnets)
        ):
            return Scope("network", self.id), ()
        routers = [port.device_id for port in self._ports if port.device_owner in ROUTER_INTERFACE_OWNERS]
        if not routers:
            return Scope("network", self.id), ()
        others = sorted(set(routers) - {routers[0]})
        text = f"metadata network {self.id}: only router {routers[0]} is served, and not {', '.join(others)}"
        return Scope("router", routers[0]), (text,) if others else ()

    def _addresses(self, port: Port) -> Iterable[str]:
        """The addresses of the port, then the metadata addresses (P-2, P-4)."""
        subnets = {subnet.id: subnet for subnet in self._subnets}
        own = [(address, subnets[subnet_id]) for address, subnet_id in port.fixed_ips if subnet_id in subnets]
        yield from (_with_prefix(address, subnet) for address, subnet in own)
        if self._options.force_metadata or self._options.enable_isolated_metadata:
            if METADATA_ADDRESS not in {address for address, _ in own}:
                yield f"{METADATA_ADDRESS}/{self._options.metadata_v4_prefixlen}"
            if self._ipv6_metadata:
                yield f"{METADATA_ADDRESS_V6}/128"

    def _gateways(self) -> Iterable[str]:
        """The gateway of the first subnet with DHCP, for each IP version (P-6)."""
        for version in (4, 6):
            found = [
                s.gateway_ip for s in self._subnets if s.version == version and s.enable_dhcp and s.gateway_ip
            ]
            yield from found[:1]

    def _server(self) -> DhcpServer:
        """What dnsmasq gets from Neutron's DHCP agent too: only known ports get an address."""
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

    def _listeners(self, scope: Scope, device: str) -> Iterable[PlannedListener]:
        yield PlannedListener(METADATA_ADDRESS, METADATA_PORT, scope)
        if self._ipv6_metadata:
            yield PlannedListener(METADATA_ADDRESS_V6, METADATA_PORT, scope, device)

    def _option_lines(self, subnet: SubnetView, port: Port) -> Iterable[str]:
        """The lines of one subnet for dnsmasq's options file (spec 4.5)."""
        if not subnet.enable_dhcp:
            return
        tag = f"tag:subnet-{subnet.id}"
        if subnet.version == 6:
            # The dnsmasq of mdmw announces the servers. Where Neutron's radvd does, Neutron tells radvd.
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

    def _routes(self, subnet: SubnetView, port: Port) -> tuple[list[tuple[str, str]], str | None]:
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
            routes.append((_ANYWHERE, gateway))  # a client that gets option 121 ignores option 3 (RFC 3442)
        return routes, gateway

    def _metadata_hop(self, subnet: SubnetView, port: Port) -> str | None:
        ovn = next((p for p in self._ports if _is_ovn_metadata(p)), None)
        if ovn:
            return _address_on(ovn, subnet)
        isolated = is_isolated(subnet, self._ports)
        if self._options.force_metadata or (isolated and self._options.enable_isolated_metadata):
            return _address_on(port, subnet)
        return None if isolated else subnet.gateway_ip


def _router(router: RouterView, index: _Index, options: Options) -> RouterPlan:
    interfaces, subnets, bridges = index.interfaces_of.get(router.id, []), index.subnets, index.bridges

    def has(port: Port, holds: Callable[[SubnetView], bool]) -> bool:
        """Whether a fixed address of `port` is on a subnet for which `holds` returns true."""
        return any(subnet_id in subnets and holds(subnets[subnet_id]) for _, subnet_id in port.fixed_ips)

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
    address = "::" if options.ipv6 else "0.0.0.0"  # noqa: S104 - the rules of the router keep others out (P-7)
    listener = PlannedListener(address, options.metadata_port, Scope("router", router.id))
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
    """The name of a port's device on the node: a prefix such as `tap` or `qr-`, and the start of its id."""
    return f"{prefix}{port.id[:_DEVICE_ID_LENGTH]}"


def _is_ovn_metadata(port: Port) -> bool:
    return port.device_owner == _OVN_OWNER and port.device_id == f"{_OVN_DEVICE}{port.network_id}"


def _address_on(port: Port, subnet: SubnetView) -> str | None:
    return next((address for address, subnet_id in port.fixed_ips if subnet_id == subnet.id), None)


def _with_prefix(address: str, subnet: SubnetView) -> str:
    return f"{address}/{ipaddress.ip_network(subnet.cidr).prefixlen}"


def _normal(address: str) -> str:
    return str(ipaddress.ip_address(address))


# --- a plan as text ---------------------------------------------------------------------


def dumps(plan: Plan) -> str:
    """A plan as JSON, for `loads`."""
    return json.dumps(dataclasses.asdict(plan))


def loads(text: str) -> Plan:
    """The plan that a text describes; raises ValueError, with one line, for any other text."""
    if len(text) > LONGEST:
        raise ValueError(f"a plan of more than {LONGEST} characters")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("a plan that is nested too deep") from None
    plan = _PLAN(value)
    for dhcp in plan.dhcp:
        _require(dhcp.namespace == f"qdhcp-{dhcp.network_id}", "a namespace of another network")
        for listener in dhcp.listeners:
            _require(
                listener.address in _METADATA_ADDRESSES and listener.port == METADATA_PORT,
                "a listener where no guest is served",
            )
    for router in plan.routers:
        _require(router.namespace == f"qrouter-{router.router_id}", "a namespace of another router")
        for listener in router.listeners:
            _require(listener.address in _ALL_ADDRESSES, "a listener where no guest is served")
            _require(listener.port == router.rules.redirect_to, "a listener that the rules do not guard")
            _require(listener.scope == Scope("router", router.router_id), "a listener of another router")
    return plan


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


# --- checks of values -------------------------------------------------------------------


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
        _require(isinstance(value, list) and len(value) <= _MOST_ITEMS, "not a list")
        return tuple(check(item) for item in value)

    return check_all


def _pair(first: Check[str], second: Check[str]) -> Check[tuple[str, str]]:
    def check(value: Any) -> tuple[str, str]:
        _require(isinstance(value, list) and len(value) == 2, "not a pair")
        return first(value[0]), second(value[1])

    return check


def _record(make: Callable[..., T], checks: Mapping[str, Check[Any]]) -> Check[T]:
    """A check of an object that must have exactly these fields."""

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


# --- the form of a plan as text ---------------------------------------------------------

_uuid = _text("a UUID", _UUID)
_line = _text("a line of text", "[ -~]{1,1000}")
_address_with_prefix = _parsed("an address with prefix length", ipaddress.ip_interface)
_address = _parsed("an address", ipaddress.ip_address)
_device = _text("a device of a port", f"(?:tap|ns-|qr-){_PORT_START}")
_qr_device = _text("a router's device", f"qr-{_PORT_START}")

_SCOPE = _record(Scope, {"kind": _text("a scope", "network|router"), "id": _uuid})
_LISTENER = _record(
    PlannedListener,
    {"address": _address, "port": _number(1, 65535), "scope": _SCOPE, "device": _optional(_device)},
)
_WIRE = _record(
    Wire,
    {
        "device": _device,
        "outer": _text("a device that mdmw made", f"mdmw{_PORT_START}"),
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
        "addresses": _list(_address_with_prefix),
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
        "addresses": _list(_pair(_qr_device, _address_with_prefix)),
    },
)
_PLAN = _record(Plan, {"dhcp": _list(_DHCP), "routers": _list(_ROUTER)})
