"""What a plan is made from: the networks, subnets, ports and routers of a cloud or of an inventory file.

Plain values. Neutron sends lists in any order; `plan` sorts them where the order matters.
"""

import ipaddress
from dataclasses import dataclass, field

from mdmw.resolvers.contract import Port


@dataclass(frozen=True, slots=True)
class SubnetView:
    """A subnet, with the fields of Neutron's API. `host_routes` are pairs of destination and next hop."""

    id: str
    network_id: str
    cidr: str
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[tuple[str, str], ...] = ()
    segment_id: str | None = None
    ipv6_address_mode: str | None = None

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
        return ipaddress.ip_network(self.cidr).version


@dataclass(frozen=True, slots=True)
class RouterView:
    """A router. `is_primary`: whether this node has the primary replica; counts only with `ha`."""

    id: str
    ha: bool = False
    distributed: bool = False
    is_primary: bool = True


@dataclass(frozen=True, slots=True)
class Bridge:
    """The bridge of this host that carries a network, on a host without Neutron.

    mdmw then makes the network's namespace, serves DHCP, and makes the devices of the network's routers.
    """

    network_id: str
    name: str
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class NodeView:
    """All of this at one moment. `dhcp_ports` has the ids of the DHCP ports that are on this node."""

    networks: tuple[str, ...] = ()
    subnets: tuple[SubnetView, ...] = ()
    ports: tuple[Port, ...] = ()
    routers: tuple[RouterView, ...] = ()
    dhcp_ports: frozenset[str] = field(default_factory=frozenset)
    bridges: tuple[Bridge, ...] = ()
