"""The YAML file of an inventory, read into the values of `mdmw.inventory`.

`etc/inventory.yaml` explains the format. Every mistake is a `ConfigError` with file,
line and place; the first one is enough, because the last good inventory stays in use.
"""

import ipaddress
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from mdmw.checked_yaml import (
    Check,
    Node,
    base64_bytes,
    boolean,
    file_bytes,
    integer,
    json_object,
    json_value,
    line,
    list_of,
    map_of,
    matching,
    one_of,
    read,
    record,
    text,
    utf8,
)
from mdmw.errors import BadRequest
from mdmw.inventory import (
    Device,
    File,
    Guest,
    HostRoute,
    Interface,
    Inventory,
    Key,
    Network,
    Port,
    Router,
    Subnet,
)
from mdmw.records import is_uuid, normalise_address, normalise_mac

T = TypeVar("T")

#: Bytes; four chunks of 255, as in Nova (spec 7.4).
MAX_PASSWORD = 1020

# Keys of meta_data.json (spec 7.5), which `extra_metadata` may not take.
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


def load(path: Path) -> Inventory:
    """The inventory in a file; raises `ConfigError` for the first mistake."""
    return read(path, _inventory)


def _inventory(root: Node) -> Inventory:
    inventory = _INVENTORY(root)
    _check_ids(root, inventory)
    _check_networks(root, inventory)
    _check_addresses(root, inventory)
    for node, guest in _each(root, "instances", inventory.instances):
        _check_guest(node, guest)
    return inventory


# --- the format -------------------------------------------------------------------------


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

_NETWORK = record(
    Network,
    {
        "id": uuid,
        "name": line,
        "mtu": integer(68, 65535),
        "subnets": list_of(_SUBNET),
        "bridge": bridge_name,
    },
)

_INTERFACE = record(Interface, {"subnet": uuid, "address": address}, into={"subnet": "subnet_id"})

_ROUTER = record(Router, {"id": uuid, "interfaces": list_of(_INTERFACE)})

_PORT = record(
    Port,
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
        "devices": list_of(_DEVICE),
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

_INVENTORY = record(
    Inventory,
    {"networks": list_of(_NETWORK), "routers": list_of(_ROUTER), "instances": list_of(_GUEST)},
)


# --- what no single value can say -------------------------------------------------------

_Steps = tuple[str | int, ...]


def _distinct(root: Node, what: str, found: Iterable[tuple[Hashable, _Steps]]) -> None:
    first: dict[Hashable, _Steps] = {}
    for value, steps in found:
        if value in first:
            raise root.at(*steps).error(f"{what} is already that of {root.at(*first[value]).where}")
        first[value] = steps


def _check_ids(root: Node, inventory: Inventory) -> None:
    for kind in ("networks", "routers", "instances"):
        records = getattr(inventory, kind)
        _distinct(root, "this id", ((item.id, (kind, i, "id")) for i, item in enumerate(records)))
    _distinct(
        root,
        "this id",
        (
            (subnet.id, ("networks", i, "subnets", j, "id"))
            for i, network in enumerate(inventory.networks)
            for j, subnet in enumerate(network.subnets)
        ),
    )
    _distinct(root, "this id", ((port.id, (*steps, "id")) for port, steps in _ports(inventory)))
    bridges = ((network.bridge, ("networks", i, "bridge")) for i, network in enumerate(inventory.networks))
    _distinct(root, "this bridge", (found for found in bridges if found[0]))


def _check_networks(root: Node, inventory: Inventory) -> None:
    subnets = {}
    for network_node, network in _each(root, "networks", inventory.networks):
        for i, (node, subnet) in enumerate(_each(network_node, "subnets", network.subnets)):
            _check_subnet(node, subnet)
            for other in network.subnets[:i]:
                if other.cidr.version == subnet.cidr.version and other.cidr.overlaps(subnet.cidr):
                    raise node.at("cidr").error(f"overlaps {other.cidr} of the same network")
            subnets[subnet.id] = subnet
    for router_node, router in _each(root, "routers", inventory.routers):
        for node, interface in _each(router_node, "interfaces", router.interfaces):
            if interface.subnet_id not in subnets:
                raise node.at("subnet").error("no network has this subnet")
            cidr = subnets[interface.subnet_id].cidr
            if interface.address and ipaddress.ip_address(interface.address) not in cidr:
                raise node.at("address").error(f"not in {cidr}")


def _check_subnet(node: Node, subnet: Subnet) -> None:
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


def _check_addresses(root: Node, inventory: Inventory) -> None:
    networks = {network.id: network for network in inventory.networks}
    addresses: list[tuple[Hashable, _Steps]] = []
    macs: list[tuple[Hashable, _Steps]] = []
    for port, steps in _ports(inventory):
        network = networks.get(port.network_id)
        if network is None:
            raise root.at(*steps, "network").error("there is no network with this id")
        macs.append(((network.id, port.mac), (*steps, "mac")))
        for i, address in enumerate(port.addresses):
            place = (*steps, "addresses", i)
            if network.subnet_of(address) is None:
                raise root.at(*place).error(f"{address} is in no subnet of its network")
            addresses.append(((network.id, address), place))
    _distinct(root, "this address", [*_dhcp_addresses(inventory), *_router_addresses(inventory), *addresses])
    _distinct(root, "this MAC address", macs)


def _dhcp_addresses(inventory: Inventory) -> Iterator[tuple[Hashable, _Steps]]:
    for i, network in enumerate(inventory.networks):
        for j, subnet in enumerate(network.subnets):
            if subnet.dhcp_address:
                yield (network.id, subnet.dhcp_address), ("networks", i, "subnets", j, "dhcp_address")


def _router_addresses(inventory: Inventory) -> Iterator[tuple[Hashable, _Steps]]:
    homes = {subnet.id: (net.id, subnet.gateway_ip) for net in inventory.networks for subnet in net.subnets}
    for i, router in enumerate(inventory.routers):
        for j, interface in enumerate(router.interfaces):
            network_id, gateway_ip = homes[interface.subnet_id]
            if address := interface.address or gateway_ip:
                yield (network_id, address), ("routers", i, "interfaces", j)


def _check_guest(node: Node, guest: Guest) -> None:
    _distinct(node, "this name", ((key.name, ("keys", i, "name")) for i, key in enumerate(guest.keys)))
    if len(guest.password) > MAX_PASSWORD:
        raise node.at("password").error(f"at most {MAX_PASSWORD} bytes are allowed")
    for name in guest.extra_metadata:
        if name in _RESERVED_METADATA or "-" in name:
            raise node.at("extra_metadata", name).error("a new key without '-' is allowed")
    for name in guest.block_device_mapping:
        if not name.isalnum():
            raise node.at("block_device_mapping", name).error(
                "names such as ami, root, swap, ebs0 are allowed"
            )
    for device_node, device in _each(node, "devices", guest.devices):
        _check_device(device_node, device)


_OF_DEVICE = {
    "nic": {"mac", "vlan", "vf_trusted"},
    "disk": {"serial", "path"},
    "share": {"share_id", "tag"},
}
_NEEDED = {"nic": "mac", "share": "share_id"}


def _check_device(node: Node, device: Device) -> None:
    for type_, names in _OF_DEVICE.items():
        for name in sorted(names):
            if type_ != device.type and getattr(device, name) is not None:
                raise node.at(name).error(f"goes with type {type_}, not {device.type}")
    needed = _NEEDED.get(device.type)
    if needed and getattr(device, needed) is None:
        raise node.error(f"a key is missing: {needed}")


def _each(node: Node, key: str, values: Sequence[T]) -> Iterator[tuple[Node, T]]:
    return zip(node.at(key).items() if values else (), values, strict=True)


def _ports(inventory: Inventory) -> Iterator[tuple[Port, _Steps]]:
    for i, guest in enumerate(inventory.instances):
        for j, port in enumerate(guest.ports):
            yield port, ("instances", i, "ports", j)
