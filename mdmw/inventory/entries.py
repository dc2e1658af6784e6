"""Checks of an inventory: of one network, router or instance, and of all of them together.

`etc/inventory.yaml` explains the format. The format is the same in a YAML file and in JSON.
"""

import base64
import dataclasses
import ipaddress
import re
from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from typing import Any

from mdmw.checked_yaml import (
    At,
    Check,
    Node,
    Steps,
    base64_bytes,
    boolean,
    distinct,
    file_bytes,
    integer,
    json_object,
    json_value,
    line,
    list_of,
    map_of,
    matching,
    one_of,
    record,
    text,
    utf8,
)
from mdmw.errors import BadRequest
from mdmw.inventory.values import (
    Device,
    File,
    Guest,
    HostRoute,
    Interface,
    Inventory,
    InventoryPort,
    Key,
    Network,
    Router,
    Subnet,
)
from mdmw.records import is_uuid, normalise_address, normalise_mac
from mdmw.reloading import with_rests

#: Bytes; four chunks of 255, as in Nova (spec 7.4).
MAX_PASSWORD = 1020

# Keys of meta_data.json (spec 7.5). `extra_metadata` may not have these.
_RESERVED_METADATA = frozenset(
    {
        "admin_pass",
        "availability_zone",
        "dedicated_cpus",
        "devices",
        "files",
        "hostname",
        "keys",
        "launch_index",
        "meta",
        "name",
        "network_config",
        "project_id",
        "public_keys",
        "random_seed",
        "uuid",
    }
)


def _uuid(value: str) -> str:
    if not is_uuid(value):
        raise ValueError(value)
    return value


def _ip(value: str, version: int | None = None) -> str:
    ip = ipaddress.ip_address(value)
    if "%" in value or version not in (None, ip.version):
        raise ValueError(value)
    return str(ip)


def _guest_ip(value: str) -> str:
    try:
        return normalise_address(_ip(value))
    except BadRequest as error:
        raise ValueError(value) from error


def _pattern(what: str, pattern: str) -> Check[str]:
    expression = re.compile(pattern)

    def normalise(value: str) -> str:
        if not expression.fullmatch(value):
            raise ValueError(value)
        return value

    return matching(what, normalise)


uuid = matching("a UUID", _uuid)
address = matching("an IP address", _ip)
ipv4_address = matching("an IPv4 address", partial(_ip, version=4))
guest_address = matching("an IP address that a guest can have", _guest_ip)
mac = matching("a MAC address such as fa:16:3e:00:00:01", normalise_mac)
cidr = matching("a network such as 10.0.0.0/24, without host bits,", ipaddress.ip_network)
word = _pattern("a word of visible ASCII characters", "[!-~]+")
hostname = _pattern("a host name", r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
ec2_id = _pattern("an id such as i-0000002a", "i-[0-9a-f]{8,17}")
bridge_name = _pattern("the name of a bridge, of at most 15 characters,", "[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
file_path = _pattern("an absolute path", "/[^\x00-\x1f\x7f]+")

_HOST_ROUTE = record(HostRoute, {"destination": cidr, "nexthop": address})

_SUBNET = record(
    Subnet,
    {
        "id": uuid,
        "cidr": cidr,
        "gateway_ip": address,
        "enable_dhcp": boolean,
        "ipv6_address_mode": one_of("slaac", "dhcpv6-stateless", "dhcpv6-stateful"),
        "dns_nameservers": list_of(address),
        "host_routes": list_of(_HOST_ROUTE),
        "dhcp_address": address,
    },
)


def _subnet(node: Node) -> Subnet:
    subnet = _SUBNET(node)
    version = subnet.cidr.version
    if subnet.gateway_ip and ipaddress.ip_address(subnet.gateway_ip).version != version:
        raise node.at("gateway_ip").error(f"an IPv{version} address is allowed")
    if subnet.dhcp_address and ipaddress.ip_address(subnet.dhcp_address) not in subnet.cidr:
        raise node.at("dhcp_address").error(f"not in {subnet.cidr}")
    if subnet.ipv6_address_mode and version != 6:
        raise node.at("ipv6_address_mode").error("only an IPv6 subnet has one")
    for i, route in enumerate(subnet.host_routes):
        if {route.destination.version, ipaddress.ip_address(route.nexthop).version} != {version}:
            raise node.at("host_routes", i).error(f"an IPv{version} route is allowed")
    return subnet


_NETWORK = record(
    Network,
    {
        "id": uuid,
        "name": line,
        "mtu": integer(68, 65535),
        "subnets": list_of(_subnet),
        "bridge": bridge_name,
    },
)


def network(node: Node) -> Network:
    """An entry of `networks`; raises `ConfigError`."""
    found = _NETWORK(node)
    for i, subnet in enumerate(found.subnets):
        for other in found.subnets[:i]:
            if other.cidr.version == subnet.cidr.version and other.cidr.overlaps(subnet.cidr):
                raise node.at("subnets", i, "cidr").error(f"overlaps {other.cidr} of the same network")
    return found


_INTERFACE = record(Interface, {"subnet": uuid, "address": address}, into={"subnet": "subnet_id"})

#: An entry of `routers`; raises `ConfigError`.
router = record(Router, {"id": uuid, "interfaces": list_of(_INTERFACE)})

_PORT = record(
    InventoryPort,
    {
        "id": uuid,
        "network": uuid,
        "mac": mac,
        "addresses": list_of(guest_address),
        "project_id": word,
        "vif_type": word,
        "device_name": word,
    },
    into={"network": "network_id"},
)

_KEY = record(Key, {"name": line, "type": one_of("ssh", "x509"), "data": text})

_FILE = record(
    File,
    {
        "path": file_path,
        "content": utf8,
        "content_base64": base64_bytes,
        "content_file": file_bytes,
    },
    into={"content_base64": "content", "content_file": "content"},
)


_DEVICE = record(
    Device,
    {
        "type": one_of("nic", "disk", "share"),
        "bus": word,
        "address": word,
        "tags": list_of(line),
        "mac": mac,
        "vlan": integer(1, 4094),
        "vf_trusted": boolean,
        "serial": line,
        "path": line,
        "share_id": uuid,
        "tag": line,
    },
)

_OF_DEVICE = {
    "nic": {"mac", "vlan", "vf_trusted"},
    "disk": {"serial", "path"},
    "share": {"share_id", "tag"},
}
_NEEDED = {"nic": "mac", "share": "share_id"}


def _device(node: Node) -> Device:
    device = _DEVICE(node)
    for type_, names in _OF_DEVICE.items():
        for name in sorted(names):
            if type_ != device.type and getattr(device, name) is not None:
                raise node.at(name).error(f"goes with type {type_}, not {device.type}")
    needed = _NEEDED.get(device.type)
    if needed and getattr(device, needed) is None:
        raise node.error(f"a key is missing: {needed}")
    return device


_GUEST = record(
    Guest,
    {
        "id": uuid,
        "project_id": word,
        "name": line,
        "hostname": hostname,
        "availability_zone": line,
        "flavor": line,
        "launch_index": integer(0, 2**31 - 1),
        "keys": list_of(_KEY),
        "user_data": utf8,
        "user_data_base64": base64_bytes,
        "user_data_file": file_bytes,
        "vendor_data": json_object,
        "vendor_data2": map_of(json_value),
        "meta": map_of(text),
        "files": list_of(_FILE),
        "network_config": utf8,
        "password": utf8,
        "admin_pass": text,
        "extra_metadata": json_object,
        "security_groups": list_of(line),
        "public_ipv4": ipv4_address,
        "block_device_mapping": map_of(line),
        "devices": list_of(_device),
        "dedicated_cpus": list_of(integer(0, 65535)),
        "ec2_id": ec2_id,
        "ami_id": word,
        "reservation_id": word,
        "kernel_id": word,
        "ramdisk_id": word,
        "ports": list_of(_PORT),
    },
    into={"user_data_base64": "user_data", "user_data_file": "user_data"},
)


def guest(node: Node) -> Guest:
    """An entry of `instances`; raises `ConfigError`."""
    found = _GUEST(node)
    distinct(node.at, "this name", ((key.name, ("keys", i, "name")) for i, key in enumerate(found.keys)))
    if len(found.password) > MAX_PASSWORD:
        raise node.at("password").error(f"at most {MAX_PASSWORD} bytes are allowed")
    for name in found.extra_metadata:
        if name in _RESERVED_METADATA or "-" in name:
            raise node.at("extra_metadata", name).error("a new key without '-' is allowed")
    for name in found.block_device_mapping:
        if not name.isalnum():
            raise node.at("block_device_mapping", name).error(
                "names such as ami, root, swap, ebs0 are allowed"
            )
    return found


_Found = tuple[Hashable, Steps]


def check_inventory(inventory: Inventory, at: At) -> None:
    """Raises `ConfigError` for the first value that does not fit the others.

    Ids, bridges, MACs and addresses must be unique, and references must lead somewhere. `at` returns the
    node of a value, by the steps to this value.
    """
    _check_ids(inventory, at)
    _check_interfaces(inventory, at)
    _check_addresses(inventory, at)


def _check_ids(inventory: Inventory, at: At) -> None:
    for kind in ("networks", "routers", "instances"):
        entries = getattr(inventory, kind)
        distinct(at, "this id", ((entry.id, (kind, i, "id")) for i, entry in enumerate(entries)))
    subnets: Iterator[_Found] = (
        (subnet.id, ("networks", i, "subnets", j, "id"))
        for i, network in enumerate(inventory.networks)
        for j, subnet in enumerate(network.subnets)
    )
    distinct(at, "this id", subnets)
    distinct(at, "this id", ((port.id, (*steps, "id")) for port, steps in _ports(inventory)))
    bridges = ((network.bridge, ("networks", i, "bridge")) for i, network in enumerate(inventory.networks))
    distinct(at, "this bridge", (found for found in bridges if found[0]))


def _check_interfaces(inventory: Inventory, at: At) -> None:
    subnets = {subnet.id: subnet for network in inventory.networks for subnet in network.subnets}
    for i, router in enumerate(inventory.routers):
        for j, interface in enumerate(router.interfaces):
            node_of = partial(at, "routers", i, "interfaces", j)
            subnet = subnets.get(interface.subnet_id)
            if subnet is None:
                raise node_of("subnet").error("no network has this subnet")
            if interface.address and ipaddress.ip_address(interface.address) not in subnet.cidr:
                raise node_of("address").error(f"not in {subnet.cidr}")


def _check_addresses(inventory: Inventory, at: At) -> None:
    networks = {network.id: network for network in inventory.networks}
    addresses: list[_Found] = []
    macs: list[_Found] = []
    for port, steps in _ports(inventory):
        network = networks.get(port.network_id)
        if network is None:
            raise at(*steps, "network").error("there is no network with this id")
        macs.append(((network.id, port.mac), (*steps, "mac")))
        for i, address in enumerate(port.addresses):
            place = (*steps, "addresses", i)
            if network.subnet_of(address) is None:
                raise at(*place).error(f"{address} is in no subnet of its network")
            addresses.append(((network.id, address), place))
    distinct(at, "this address", [*_dhcp_addresses(inventory), *_router_addresses(inventory), *addresses])
    distinct(at, "this MAC address", macs)


def _dhcp_addresses(inventory: Inventory) -> Iterator[_Found]:
    for i, network in enumerate(inventory.networks):
        for j, subnet in enumerate(network.subnets):
            if subnet.dhcp_address:
                yield (network.id, subnet.dhcp_address), ("networks", i, "subnets", j, "dhcp_address")


def _router_addresses(inventory: Inventory) -> Iterator[_Found]:
    homes = {subnet.id: (net.id, subnet.gateway_ip) for net in inventory.networks for subnet in net.subnets}
    for i, router in enumerate(inventory.routers):
        for j, interface in enumerate(router.interfaces):
            network_id, gateway_ip = homes[interface.subnet_id]
            if address := interface.address or gateway_ip:
                yield (network_id, address), ("routers", i, "interfaces", j)


def _ports(inventory: Inventory) -> Iterator[tuple[InventoryPort, Steps]]:
    for i, guest in enumerate(with_rests(inventory.instances)):
        for j, port in enumerate(guest.ports):
            yield port, ("instances", i, "ports", j)


Entry = Network | Router | Guest

_KEYS = {"network_id": "network", "subnet_id": "subnet"}


def of_inventory(inventory: Inventory) -> dict[str, Any]:
    """The whole inventory as JSON values. Keys with their default are left out."""
    return _of(inventory)


def of_entry(entry: Entry) -> dict[str, Any]:
    """One network, router or instance as JSON values. Keys with their default are left out."""
    return _of(entry)


def _of(value: Any) -> dict[str, Any]:
    names = {field.name: _is_needed(field) for field in dataclasses.fields(value)}
    plain = type(value)(**{name: getattr(value, name) for name, needed in names.items() if needed})
    return dict(
        _pair(name, getattr(value, name))
        for name, needed in names.items()
        if needed or getattr(value, name) != getattr(plain, name)
    )


def _is_needed(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _pair(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, bytes):
        try:
            return name, value.decode()
        except UnicodeDecodeError:
            return f"{name}_base64", base64.b64encode(value).decode()
    return _KEYS.get(name, name), _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return _of(value)
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return str(value)
    return dict(value) if isinstance(value, Mapping) else value
