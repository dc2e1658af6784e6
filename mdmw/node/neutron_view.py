"""The view of a node in a Neutron cloud, from Neutron's REST API and the state files of its L3 agent.

The whole view is read each time. Each error is `Unavailable`, so that an incomplete answer is never taken for
a cloud in which the rest is gone.
"""

import ipaddress
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import requests

from mdmw.errors import Unavailable
from mdmw.node.view import NodeView, RouterView, SubnetView
from mdmw.records import is_uuid
from mdmw.resolvers.contract import ROUTER_INTERFACE_OWNERS
from mdmw.resolvers.neutron import Query, items, port_of

T = TypeVar("T")

_DHCP_OWNER, _RESERVED = "network:dhcp", "reserved_dhcp_port"
#: Owners of the ports that a plan depends on.
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
_MOST_IDS = 50  # in one query; with 150 ids a URL is longer than 8 KiB
#: What the L3 agent writes into the file `state` of an HA router, for a primary replica.
_PRIMARY = ("primary", "master")
_LONGEST_STATE = 16  # characters


class NeutronView:
    """Reads views of the host `host`.

    `get(path)` fetches a path below Neutron's address, and raises `Unavailable`.
    """

    def __init__(self, get: Callable[[str], requests.Response], host: str, ha_states: "HaStates") -> None:
        self._get = get
        self._host = host
        self._ha_states = ha_states

    def read(self, namespaces: Collection[str]) -> NodeView:
        """The view of the host, on which namespaces with these names exist; raises `Unavailable`."""
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
        return NodeView(
            networks=tuple(networks),
            subnets=tuple(subnets),
            ports=tuple({port.id: port for port in [*ports, *interfaces]}.values()),
            routers=tuple(routers),
            dhcp_ports=frozenset(port.id for port in dhcp),
        )

    def _up(self, networks: Sequence[str]) -> list[str]:
        """The ids of the networks that are not switched off."""
        found = self._of_each("networks", "id", networks, [], _NETWORK_FIELDS, _id_if_up)
        return sorted(network_id for network_id in found if network_id)

    def _router(self, fields: Mapping[str, Any]) -> RouterView:
        is_ha = bool(fields.get("ha"))
        return RouterView(
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
        """The objects whose field `name` is one of `values`, at most 50 values a query (R-9)."""
        for start in range(0, len(values), _MOST_IDS):
            piece = values[start : start + _MOST_IDS]
            named = [(name, value) for value in piece]
            for found in self._all(kind, [*named, *query], fields):
                try:
                    if found[name] in piece:  # Neutron may answer more than it was asked for
                        yield make(found)
                except (KeyError, TypeError, AttributeError, ValueError):
                    raise Unavailable(f"Neutron: an object of {kind} has an unknown form") from None

    def _all(self, kind: str, query: Query, fields: Sequence[str]) -> Iterator[Any]:
        """The objects of every page (R-10)."""
        return items(kind, query, fields, lambda page: self._page(kind, page))

    def _page(self, kind: str, query: Query) -> bytes:
        response = self._get(f"/v2.0/{kind}?{urlencode(query, quote_via=quote, safe='')}")
        if response.status_code != 200:
            raise Unavailable(f"Neutron answers {response.status_code} to a query for {kind}")
        return response.content


class HaStates:
    """On which HA routers this node has the primary replica, from the files of Neutron's L3 agent (spec 4.8).

    `directory` has a directory for each router, with a file `state`. A replica counts as primary after
    `settle` seconds, so that a router that changes again and again causes no work.
    """

    def __init__(self, directory: Path, settle: float) -> None:
        self._directory = directory
        self._settle = settle
        self._primaries: frozenset[str] = frozenset()  # when `look` was called last

    def look(self) -> frozenset[str] | None:
        """The ids of the routers whose primary replica is here; None when the files cannot be read."""
        try:
            self._primaries = frozenset(
                path.name for path in self._directory.iterdir() if self.is_primary(path.name)
            )
        except FileNotFoundError:
            self._primaries = frozenset()
        except (OSError, Unavailable):
            return None
        return self._primaries

    def is_primary(self, router_id: str) -> bool:
        """Whether this node has the primary replica of a router; raises `Unavailable`."""
        try:
            with (self._directory / router_id / "state").open() as file:
                is_primary = file.read(_LONGEST_STATE).strip() in _PRIMARY
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise Unavailable(f"the state file of an HA router cannot be read: {error}") from None
        # The agent writes the same state again when it starts: a router that was primary stays primary.
        return is_primary and (router_id in self._primaries or not 0 <= age < self._settle)


def _owned_by(owners: Sequence[str]) -> Query:
    return [("device_owner", owner) for owner in owners]


def _id_if_up(fields: Mapping[str, Any]) -> str | None:
    return fields["id"] if fields["admin_state_up"] else None


def _subnet(fields: Mapping[str, Any]) -> SubnetView:
    ipaddress.ip_network(fields["cidr"])  # raises ValueError here, not later in the plan
    return SubnetView(
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
