"""Resolving by asking for ports: what Neutron's REST API and its RPC have in common.

Spec 2.1; the queries themselves are those of spec 2.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mdmw.errors import NotIdentified, Unavailable
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.matching import Port, choose, wanted_mac
from mdmw.resolvers.snapshot import Snapshot

_NO_ROUTER = "00000000-0000-0000-0000-000000000000"


class PortQueries(Protocol):
    """Where ports come from; every method raises `Unavailable` when that cannot be found out now.

    `networks` is never empty: a query without networks would search everywhere (R-2).
    """

    def router_interfaces(self, router_id: str) -> Sequence[Port]:
        """The ports of a router whose owner is one of `ROUTER_INTERFACE_OWNERS`."""

    def by_address(self, networks: Sequence[str], address: str) -> Sequence[Port]:
        """The ports on these networks with this fixed address."""

    def by_mac(self, networks: Sequence[str], mac: str) -> Sequence[Port]:
        """The ports on these networks with this MAC."""

    def everything(self, networks: Sequence[str]) -> Sequence[Port] | None:
        """All ports on these networks; None when they are too many to be fetched at once."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a scope extends: its networks, and for a router the subnets it is attached to."""

    networks: tuple[str, ...]
    subnets: frozenset[str] | None = None


class PortResolver:
    """A resolver over `PortQueries`; it can also fetch all that a scope reaches in one go."""

    def __init__(self, queries: PortQueries) -> None:
        self._queries = queries

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:  # noqa: ARG002 - nothing is cached
        """The one instance behind `source` (spec 2.1)."""
        mac = wanted_mac(source)
        reach = self._reach(source.scope)
        if mac:
            ports = self._queries.by_mac(reach.networks, mac)
        else:
            ports = self._queries.by_address(reach.networks, source.address)
        return choose(ports, source, reach.subnets)

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """All ports that `scope` reaches; None when they are too many."""
        reach = self._reach(scope)
        ports = self._queries.everything(reach.networks)
        return None if ports is None else Snapshot(ports, reach.subnets)

    def check(self) -> str:
        """Ask Neutron for next to nothing; raises `Unavailable`."""
        self._queries.router_interfaces(_NO_ROUTER)
        return "Neutron answers"

    def _reach(self, scope: Scope) -> Reach:
        """R-1 and R-2: a router without interfaces reaches nobody."""
        if scope.kind == "network":
            return Reach((scope.id,))
        interfaces = self._queries.router_interfaces(scope.id)
        if not interfaces:
            raise NotIdentified(f"{scope} has no interfaces")
        networks = tuple(dict.fromkeys(port.network_id for port in interfaces))
        return Reach(networks, frozenset(subnet for port in interfaces for _, subnet in port.fixed_ips))


def port_of(fields: Mapping[str, Any]) -> Port:
    """A port as Neutron describes it, in REST and in RPC; `Unavailable` for one that is not whole."""
    try:
        return Port(
            id=_text(fields["id"]),
            network_id=_text(fields["network_id"]),
            mac=_text(fields.get("mac_address") or ""),
            device_id=_text(fields.get("device_id") or ""),
            device_owner=_text(fields.get("device_owner") or ""),
            project_id=_text(fields.get("project_id") or fields.get("tenant_id") or ""),
            fixed_ips=tuple(
                (_text(fixed["ip_address"]), _text(fixed["subnet_id"])) for fixed in fields["fixed_ips"]
            ),
        )
    except KeyError as error:
        raise Unavailable(f"Neutron describes a port without {error}") from None
    except (TypeError, AttributeError):
        raise Unavailable("Neutron describes a port in a form that is unknown") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
