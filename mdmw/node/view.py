"""What the plan is made from: networks, subnets, ports and routers, as a cloud or a file tells them.

Plain values. Lists of Neutron come in any order; `plan` sorts where order matters.
"""

import ipaddress
from dataclasses import dataclass, field

from mdmw.resolvers.contract import Port


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet as Neutron describes it; `host_routes` are (destination, next hop)."""

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
        """4 or 6."""
        return ipaddress.ip_network(self.cidr).version


@dataclass(frozen=True, slots=True)
class Router:
    """A router; `is_primary` is the state of this node's replica and counts for `ha` only."""

    id: str
    ha: bool = False
    distributed: bool = False
    is_primary: bool = True


@dataclass(frozen=True, slots=True)
class Bridge:
    """The bridge of this host that is a network, where there is no Neutron.

    The network's namespaces, its DHCP and its routers' devices are then ours to make.
    """

    network_id: str
    name: str
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """Everything at one moment. `dhcp_ports` are the ids of the DHCP ports that are on this node."""

    networks: tuple[str, ...] = ()
    subnets: tuple[Subnet, ...] = ()
    ports: tuple[Port, ...] = ()
    routers: tuple[Router, ...] = ()
    dhcp_ports: frozenset[str] = field(default_factory=frozenset)
    bridges: tuple[Bridge, ...] = ()
