"""The resolver that needs no OpenStack: it knows the instances from an inventory."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import ClassVar

from oslo_config import cfg

from mdmw.errors import NotIdentified
from mdmw.inventory import file as inventory_source
from mdmw.inventory.values import Guest, Inventory
from mdmw.inventory.values import Port as InventoryPort
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.contract import Port, choose, wanted_mac

_REMEMBERED = 16384  # sources


class InventoryResolver:
    """Looks a source up in tables that are made once for each version of the inventory."""

    contract_version = 1
    cheap = True
    options: ClassVar[list[cfg.Opt]] = inventory_source.OPTIONS

    def __init__(self, settings: SimpleNamespace) -> None:
        self._tables = inventory_source.reloading(settings, _Tables)

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:  # noqa: ARG002 - nothing is cached
        """The one instance behind `source` (spec 2.1); nobody is sent away by what is no longer so."""
        tables = self._tables.value()
        try:
            return tables.find(source)
        except NotIdentified:
            newest = self._tables.newest()
            if newest is tables:
                raise
        return newest.find(source)


@dataclass(frozen=True, slots=True)
class _Reach:
    """Where a scope extends: its networks, and for a router the subnets it is attached to."""

    networks: tuple[str, ...]
    subnets: frozenset[str] | None = None


class _Tables:
    """The inventory, arranged for look-ups; what was found is remembered as long as it is the same."""

    def __init__(self, inventory: Inventory) -> None:
        self.find = lru_cache(_REMEMBERED)(self._find)
        homes = {subnet.id: network.id for network in inventory.networks for subnet in network.subnets}
        self._reach = {Scope("network", network.id): _Reach((network.id,)) for network in inventory.networks}
        for router in inventory.routers:
            subnets = [interface.subnet_id for interface in router.interfaces]
            networks = tuple(dict.fromkeys(homes[subnet] for subnet in subnets))
            self._reach[Scope("router", router.id)] = _Reach(networks, frozenset(subnets))
        self.by_address: dict[tuple[str, str], list[Port]] = {}
        self.by_mac: dict[tuple[str, str], list[Port]] = {}
        for port in _ports(inventory):
            self.by_mac.setdefault((port.network_id, port.mac), []).append(port)
            for address, _subnet in port.fixed_ips:
                self.by_address.setdefault((port.network_id, address), []).append(port)

    def _find(self, source: Source) -> Instance:
        """The one instance behind `source`; raises `NotIdentified` and `Contradiction`."""
        mac = wanted_mac(source)
        reach = self.reach(source.scope)
        if mac:
            keys = [(network, mac) for network in reach.networks]
            ports = [port for key in keys for port in self.by_mac.get(key, ())]
        else:
            keys = [(network, source.address) for network in reach.networks]
            ports = [port for key in keys for port in self.by_address.get(key, ())]
        return choose(ports, source, reach.subnets)

    def reach(self, scope: Scope) -> _Reach:
        """R-1 and R-2; a router without interfaces reaches nobody."""
        reach = self._reach.get(scope)
        if reach is None:
            raise NotIdentified(f"{scope} is not in the inventory")
        return reach


def _ports(inventory: Inventory) -> Iterable[Port]:
    networks = {network.id: network for network in inventory.networks}

    def fixed_ips(port: InventoryPort) -> Iterable[tuple[str, str]]:
        for address in port.addresses:
            if subnet := networks[port.network_id].subnet_of(address):
                yield address, subnet.id

    for guest in inventory.instances:
        for port in guest.ports:
            yield Port(
                id=port.id,
                network_id=port.network_id,
                mac=port.mac,
                device_id=guest.id,
                device_owner=_owner(guest),
                project_id=port.project_id or guest.project_id,
                fixed_ips=tuple(fixed_ips(port)),
            )


def _owner(guest: Guest) -> str:
    return f"compute:{guest.availability_zone}"
