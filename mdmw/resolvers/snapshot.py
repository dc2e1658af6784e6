"""All ports that one scope reaches, fetched together and searched in memory."""

from collections.abc import Sequence

from mdmw.records import Instance, Source
from mdmw.resolvers.matching import Port, choose, wanted_mac


class Snapshot:
    """Ports, and for a router the subnets it is attached to; answers like the back end it came from."""

    def __init__(self, ports: Sequence[Port], subnets: frozenset[str] | None = None) -> None:
        self.ports = tuple(ports)
        self.subnets = subnets
        self._macs = {port.id: port.mac for port in ports}
        self._by_mac: dict[str, list[Port]] = {}
        self._by_address: dict[str, list[Port]] = {}
        for port in ports:
            self._by_mac.setdefault(port.mac, []).append(port)
            for address, _ in port.fixed_ips:
                self._by_address.setdefault(address, []).append(port)

    def resolve(self, source: Source) -> Instance:
        """The one instance behind `source`; raises `NotIdentified` and `Contradiction`."""
        mac = wanted_mac(source)
        ports = self._by_mac.get(mac, ()) if mac else self._by_address.get(source.address, ())
        return choose(ports, source, self.subnets)

    def mac_of(self, instance: Instance) -> str:
        """The MAC of the port through which `resolve` found an instance."""
        return self._macs[instance.port_id]
