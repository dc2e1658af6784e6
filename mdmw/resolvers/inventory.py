"""The resolver that finds instances in an inventory, without OpenStack."""

from functools import lru_cache
from types import SimpleNamespace
from typing import ClassVar

from oslo_config import cfg

from mdmw.errors import NotIdentified
from mdmw.inventory import source
from mdmw.inventory.values import Guest, Inventory, InventoryPort
from mdmw.records import Instance, Scope, Source
from mdmw.reloading import with_rests
from mdmw.resolvers.contract import Port, Reach, choose, wanted_mac

_REMEMBERED = 16384  # sources


class InventoryResolver:
    """Looks sources up in tables that are made once for each content of the inventory."""

    contract_version = 1
    cheap = True
    options: ClassVar[list[cfg.Opt]] = source.OPTIONS

    def __init__(self, settings: SimpleNamespace) -> None:
        self._tables = source.from_inventory(settings, _Tables)

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:  # noqa: ARG002 - nothing is cached
        """The one instance behind `source` (spec 2.1); without one, in the newest content of the inventory.

        Raises `NotIdentified`, `Contradiction`, and `Unavailable` while a changed inventory is being read.
        """
        tables = self._tables.value()
        try:
            return tables.find(source)
        except NotIdentified:
            newest = self._tables.newest()
            if newest is tables:
                raise
        return newest.find(source)


class _Tables:
    """The inventory, arranged for look-ups by address and by MAC. The last answers are remembered.

    The tables hold numbers of ports, and a `Port` is made when it is looked up: 20,000 objects less make
    the garbage collector, which stops all threads, quicker by a tenth of a second.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.find = lru_cache(_REMEMBERED)(self._find)
        self._networks = {network.id: network for network in inventory.networks}
        homes = {subnet.id: network.id for network in inventory.networks for subnet in network.subnets}
        self._reaches = {Scope("network", network.id): Reach((network.id,)) for network in inventory.networks}
        for router in inventory.routers:
            subnets = [interface.subnet_id for interface in router.interfaces]
            networks = tuple(dict.fromkeys(homes[subnet] for subnet in subnets))
            self._reaches[Scope("router", router.id)] = Reach(networks, frozenset(subnets))
        self._guests: list[Guest] = []
        self._ports: list[InventoryPort] = []
        self._numbers: dict[tuple[str, str], tuple[int, ...]] = {}  # by network, and by address or MAC
        for guest in with_rests(inventory.instances):
            for port in guest.ports:
                for name in (port.mac, *port.addresses):
                    key = (port.network_id, name)
                    self._numbers[key] = (*self._numbers.get(key, ()), len(self._ports))
                self._guests.append(guest)
                self._ports.append(port)

    def _find(self, source: Source) -> Instance:
        """The one instance behind `source`; raises `NotIdentified` and `Contradiction`."""
        name = wanted_mac(source) or source.address
        reach = self.reach(source.scope)
        numbers = [n for network in reach.networks for n in self._numbers.get((network, name), ())]
        return choose(map(self._port, numbers), source, reach.subnets)

    def reach(self, scope: Scope) -> Reach:
        """R-1 and R-2; raises `NotIdentified` for an unknown scope."""
        reach = self._reaches.get(scope)
        if reach is None:
            raise NotIdentified(f"{scope} is not in the inventory")
        return reach

    def _port(self, number: int) -> Port:
        guest, port = self._guests[number], self._ports[number]
        homes = [(address, self._networks[port.network_id].subnet_of(address)) for address in port.addresses]
        return Port(
            id=port.id,
            network_id=port.network_id,
            mac=port.mac,
            device_id=guest.id,
            device_owner=f"compute:{guest.availability_zone}",
            project_id=port.project_id or guest.project_id,
            fixed_ips=tuple((address, subnet.id) for address, subnet in homes if subnet),
        )
