"""Which instance a source is, given ports: the algorithm of spec 2.1 without any I/O.

Every resolver fetches its candidates in its own way and leaves the choice to `choose`.
"""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mdmw.errors import Contradiction, NotIdentified
from mdmw.records import Instance, Source, is_link_local_v6, mac_from_link_local

LOG = logging.getLogger(__name__)

#: Owners of the ports by which a router reaches guests (spec 2.2).
ROUTER_INTERFACE_OWNERS = (
    "network:router_interface",
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
)

#: Owners of what belongs to the cloud itself start so, and are never a guest (R-4).
NETWORK_OWNER_PREFIX = "network:"


@dataclass(frozen=True, slots=True)
class Port:
    """A port as far as identification needs it; `fixed_ips` are (address, subnet id)."""

    id: str
    network_id: str
    mac: str
    device_id: str
    device_owner: str
    project_id: str
    fixed_ips: tuple[tuple[str, str], ...]


def wanted_mac(source: Source) -> str | None:
    """The MAC to search a link-local source by; None for any other, which has a fixed IP (R-3).

    It comes from the address (R-7) or from whoever saw it on the wire (R-8).
    """
    if not is_link_local_v6(source.address):
        return None
    derived = mac_from_link_local(source.address)
    if derived and source.mac and derived != source.mac:
        raise Contradiction(f"{source}: the address belongs to {derived}, but {source.mac} sent it")
    mac = derived or source.mac
    if mac is None:
        raise NotIdentified(f"{source}: the address is not EUI-64 and nobody saw the MAC")
    return mac


def choose(ports: Iterable[Port], source: Source, subnets: Collection[str] | None = None) -> Instance:
    """The one instance behind `source` among `ports` of its networks.

    `subnets` are those that the router is attached to, when the scope is a router.
    Raises `NotIdentified` rather than guess, and `Contradiction` as `wanted_mac` does.
    """
    mac = wanted_mac(source)
    if mac:
        found = [port for port in ports if port.mac == mac and _is_guest(port)]
    else:
        found = [port for port in ports if _subnets_of(port, source.address) and _is_guest(port)]
        if len(found) > 1 and subnets is not None:
            found = [port for port in found if _subnets_of(port, source.address) & set(subnets)]
    return _the_one(found, source)


def _is_guest(port: Port) -> bool:
    return bool(port.device_id) and not port.device_owner.startswith(NETWORK_OWNER_PREFIX)


def _subnets_of(port: Port, address: str) -> set[str]:
    return {subnet_id for fixed, subnet_id in port.fixed_ips if fixed == address}


def _the_one(found: list[Port], source: Source) -> Instance:
    """R-6: several ports of one instance are that instance, several instances are nobody."""
    if not found:
        raise NotIdentified(f"{source}: no port of an instance")
    if len({(port.device_id, port.project_id) for port in found}) > 1:
        LOG.error("%s: several instances, ports %s", source, ", ".join(sorted(port.id for port in found)))
        raise NotIdentified(f"{source}: several instances")
    port = found[0]
    return Instance(port.device_id, port.project_id, port.id)
