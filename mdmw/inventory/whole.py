"""What no single entry of an inventory can say: what is there once, and references that lead somewhere."""

import ipaddress
from collections.abc import Hashable, Iterator
from functools import partial

from mdmw.checked_yaml import At, Steps, distinct
from mdmw.inventory.values import Inventory, Port

_Found = tuple[Hashable, Steps]


def check(inventory: Inventory, at: At) -> None:
    """Raises the `ConfigError` of the first value that does not fit; `at` finds its node by the way to it."""
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


def _ports(inventory: Inventory) -> Iterator[tuple[Port, Steps]]:
    for i, guest in enumerate(inventory.instances):
        for j, port in enumerate(guest.ports):
            yield port, ("instances", i, "ports", j)
