"""The view of a node beside Neutron, by Neutron's REST API.

Read anew as a whole each time. Any fault is `Unavailable`, so that half an answer is never taken
for a cloud in which the other half is gone.
"""

import ipaddress
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import requests

from mdmw.errors import Unavailable
from mdmw.node.ha_states import HaStates
from mdmw.node.view import Router, Subnet, View
from mdmw.records import is_uuid
from mdmw.resolvers.contract import ROUTER_INTERFACE_OWNERS
from mdmw.resolvers.neutron import Query, items, port_of

T = TypeVar("T")

_DHCP_OWNER, _RESERVED = "network:dhcp", "reserved_dhcp_port"
#: Of the ports of a network, those that the plan asks for.
_OWNERS = (*ROUTER_INTERFACE_OWNERS, _DHCP_OWNER, "network:distributed")
_PORT_FIELDS = ("id", "network_id", "mac_address", "device_id", "device_owner", "project_id", "fixed_ips")
_NETWORK_FIELDS = ("id", "admin_state_up")
_ROUTER_FIELDS = ("id", "ha", "distributed", "admin_state_up")
_SUBNET_FIELDS = (
    "id",
    "network_id",
    "cidr",
    "gateway_ip",
    "enable_dhcp",
    "dns_nameservers",
    "host_routes",
    "segment_id",
    "ipv6_address_mode",
)
_IN_A_QUERY = 50  # ids; with 150 a URL is longer than 8 KiB


class NeutronView:
    """Makes views of one host.

    `get(path)` fetches what is below Neutron's address, and raises `Unavailable`.
    """

    def __init__(self, get: Callable[[str], requests.Response], host: str, ha_states: HaStates) -> None:
        self._get = get
        self._host = host
        self._ha_states = ha_states

    def read(self, namespaces: Collection[str]) -> View:
        """What is on this host, where these namespaces are; raises `Unavailable`."""
        local = map(
            port_of,
            self._all("ports", [*_owned_by([_DHCP_OWNER]), ("binding:host_id", self._host)], _PORT_FIELDS),
        )
        dhcp = [port for port in local if port.device_id != _RESERVED]
        networks = self._up(sorted({port.network_id for port in dhcp}))
        router_ids = sorted(
            name.removeprefix("qrouter-")
            for name in namespaces
            if name.startswith("qrouter-") and is_uuid(name.removeprefix("qrouter-"))
        )
        routers = list(self._of_each("routers", "id", router_ids, [], _ROUTER_FIELDS, self._router))
        interfaces = list(
            self._of_each(
                "ports",
                "device_id",
                [router.id for router in routers],
                _owned_by(ROUTER_INTERFACE_OWNERS),
                _PORT_FIELDS,
                port_of,
            )
        )
        ports = [*self._of_each("ports", "network_id", networks, _owned_by(_OWNERS), _PORT_FIELDS, port_of)]
        known = sorted({*networks, *(port.network_id for port in interfaces)})
        subnets = self._of_each("subnets", "network_id", known, [], _SUBNET_FIELDS, _subnet)
        return View(
            networks=tuple(networks),
            subnets=tuple(subnets),
            ports=tuple({port.id: port for port in [*ports, *interfaces]}.values()),
            routers=tuple(routers),
            dhcp_ports=frozenset(port.id for port in dhcp),
        )

    def _up(self, networks: Sequence[str]) -> list[str]:
        """Those that are not switched off."""
        found = self._of_each("networks", "id", networks, [], _NETWORK_FIELDS, _id_if_up)
        return sorted(network_id for network_id in found if network_id)

    def _router(self, fields: Mapping[str, Any]) -> Router:
        is_ha = bool(fields.get("ha"))
        return Router(
            id=fields["id"],
            ha=is_ha,
            distributed=bool(fields.get("distributed")),
            is_primary=not is_ha or self._ha_states.is_primary(fields["id"]),
        )

    def _of_each(
        self,
        kind: str,
        name: str,
        values: Sequence[str],
        query: Query,
        fields: Sequence[str],
        make: Callable[[Mapping[str, Any]], T],
    ) -> Iterator[T]:
        """What has one of `values` as its `name`, piece by piece (R-9)."""
        for start in range(0, len(values), _IN_A_QUERY):
            piece = values[start : start + _IN_A_QUERY]
            named = [(name, value) for value in piece]
            for found in self._all(kind, [*named, *query], fields):
                try:
                    if found[name] in piece:  # whatever Neutron made of the question
                        yield make(found)
                except (KeyError, TypeError, AttributeError, ValueError):
                    raise Unavailable(f"Neutron: one of the {kind} is in a form that is unknown") from None

    def _all(self, kind: str, query: Query, fields: Sequence[str]) -> Iterator[Any]:
        """Every page (R-10)."""
        return items(kind, query, fields, lambda page: self._page(kind, page))

    def _page(self, kind: str, query: Query) -> bytes:
        response = self._get(f"/v2.0/{kind}?{urlencode(query, quote_via=quote, safe='')}")
        if response.status_code != 200:
            raise Unavailable(f"Neutron answers {response.status_code} to a query for {kind}")
        return response.content


def _owned_by(owners: Sequence[str]) -> Query:
    return [("device_owner", owner) for owner in owners]


def _id_if_up(fields: Mapping[str, Any]) -> str | None:
    return fields["id"] if fields["admin_state_up"] else None


def _subnet(fields: Mapping[str, Any]) -> Subnet:
    ipaddress.ip_network(fields["cidr"])  # a ValueError here rather than in the plan
    return Subnet(
        id=fields["id"],
        network_id=fields["network_id"],
        cidr=fields["cidr"],
        gateway_ip=fields["gateway_ip"],
        enable_dhcp=fields["enable_dhcp"],
        dns_nameservers=tuple(fields["dns_nameservers"]),
        host_routes=tuple((route["destination"], route["nexthop"]) for route in fields["host_routes"]),
        segment_id=fields.get("segment_id"),
        ipv6_address_mode=fields.get("ipv6_address_mode"),
    )
