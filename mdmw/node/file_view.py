"""The view of a host without Neutron: the networks of an inventory that have a bridge on this host."""

import hashlib
import ipaddress
import uuid
from collections.abc import Iterator
from pathlib import Path

from mdmw.errors import ConfigError
from mdmw.inventory import values
from mdmw.inventory.values import Inventory
from mdmw.node.view import Bridge, NodeView, RouterView, SubnetView
from mdmw.resolvers.contract import Port

#: Name space of the ids that are made from names (RFC 4122, version 5). It must never change.
_NAMESPACE = uuid.UUID("b4d4e8de-2f0a-5c0e-9a46-5d1d3c1f7e21")
_DHCP_OWNER = "network:dhcp"
_ROUTER_OWNER = "network:router_interface"


def view(inventory: Inventory, path: Path) -> NodeView:
    """The view that `plan` needs. `path` is named in errors.

    Raises `ConfigError` when the address for DHCP is already that of a port.
    """
    networks = [network for network in inventory.networks if network.bridge]
    guests = list(_guest_ports(inventory, networks))
    interfaces = [
        port for network in networks for router in inventory.routers for port in _interfaces(router, network)
    ]
    dhcp = [_dhcp_port(network) for network in networks if any(s.enable_dhcp for s in network.subnets)]
    _refuse_doubles(path, dhcp, [*guests, *interfaces])
    attached = {port.device_id for port in interfaces}
    return NodeView(
        networks=tuple(network.id for network in networks),
        subnets=tuple(_subnet(subnet, network.id) for network in networks for subnet in network.subnets),
        ports=(*dhcp, *interfaces, *guests),
        routers=tuple(RouterView(router.id) for router in inventory.routers if router.id in attached),
        dhcp_ports=frozenset(port.id for port in dhcp),
        bridges=tuple(Bridge(network.id, network.bridge or "", network.mtu) for network in networks),
    )


def _subnet(subnet: values.Subnet, network_id: str) -> SubnetView:
    return SubnetView(
        id=subnet.id,
        network_id=network_id,
        cidr=str(subnet.cidr),
        gateway_ip=subnet.gateway_ip,
        enable_dhcp=subnet.enable_dhcp,
        dns_nameservers=subnet.dns_nameservers,
        host_routes=tuple((str(route.destination), route.nexthop) for route in subnet.host_routes),
        ipv6_address_mode=subnet.ipv6_address_mode,
    )


def _dhcp_port(network: values.Network) -> Port:
    fixed = tuple((_dhcp_address(subnet), subnet.id) for subnet in network.subnets if subnet.enable_dhcp)
    return _port(f"dhcp {network.id}", network.id, _DHCP_OWNER, f"dhcp-{network.id}", fixed)


def _dhcp_address(subnet: values.Subnet) -> str:
    """`dhcp_address`, or the first address that is not the gateway, as Neutron chooses in an empty subnet."""
    if subnet.dhcp_address:
        return subnet.dhcp_address
    first = subnet.cidr.network_address + 1
    taken = subnet.gateway_ip and first == ipaddress.ip_address(subnet.gateway_ip)
    return str(first + 1 if taken else first)


def _interfaces(router: values.Router, network: values.Network) -> Iterator[Port]:
    subnets = {subnet.id: subnet for subnet in network.subnets}
    for interface in router.interfaces:
        subnet = subnets.get(interface.subnet_id)
        address = (interface.address or subnet.gateway_ip) if subnet else None
        if subnet and address:
            name = f"router {router.id} {subnet.id}"
            yield _port(name, network.id, _ROUTER_OWNER, router.id, ((address, subnet.id),))


def _port(name: str, network_id: str, owner: str, device: str, fixed: tuple[tuple[str, str], ...]) -> Port:
    """A port that mdmw makes. Its id and MAC are made from `name`, so that they stay the same."""
    mac = bytes.fromhex("fa163e") + hashlib.sha256(name.encode()).digest()[:3]
    return Port(str(uuid.uuid5(_NAMESPACE, name)), network_id, mac.hex(":"), device, owner, "", fixed)


def _guest_ports(inventory: Inventory, networks: list[values.Network]) -> Iterator[Port]:
    known = {network.id: network for network in networks}
    for guest in inventory.instances:
        for port in guest.ports:
            if network := known.get(port.network_id):
                homes = ((address, network.subnet_of(address)) for address in port.addresses)
                fixed = tuple((address, subnet.id) for address, subnet in homes if subnet)
                owner = f"compute:{guest.availability_zone}"
                yield Port(port.id, network.id, port.mac, guest.id, owner, guest.project_id, fixed)


def _refuse_doubles(path: Path, dhcp: list[Port], others: list[Port]) -> None:
    taken = {(port.network_id, address) for port in others for address, _ in port.fixed_ips}
    for port in dhcp:
        for address, subnet_id in port.fixed_ips:
            if (port.network_id, address) in taken:
                raise ConfigError(
                    f"{path}: subnet {subnet_id}: {address} is needed for DHCP, but a port has it; "
                    "set dhcp_address of the subnet to a free address"
                )
