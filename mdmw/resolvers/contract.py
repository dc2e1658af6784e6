"""The contract of resolvers, version 1, and the rules that all resolvers share.

A resolver turns a `Source` into an `Instance`. It is a class with a name in the entry point group
`mdmw.resolvers`; the option `resolver = NAME` of instance-resolve chooses it. `mdmw.testing.resolvers`
has the tests that every resolver must pass.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

from oslo_config import cfg
from stevedore.driver import DriverManager
from stevedore.exception import NoMatches

from mdmw.errors import ConfigError, Contradiction, NotIdentified
from mdmw.records import Instance, Scope, Source, is_link_local_v6, mac_from_link_local

LOG = logging.getLogger(__name__)

#: Owners of the ports through which a router reaches guests (spec 2.2).
ROUTER_INTERFACE_OWNERS = (
    "network:router_interface",
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
)

#: Ports whose owner begins with this belong to the cloud itself, and never to an instance (R-4).
NETWORK_OWNER_PREFIX = "network:"


@dataclass(frozen=True, slots=True)
class Port:
    """The fields of a Neutron port that identification needs. `fixed_ips` are pairs (address, subnet id)."""

    id: str
    network_id: str
    mac: str
    device_id: str
    device_owner: str
    project_id: str
    fixed_ips: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a scope extends: its networks, and for a router the subnets that it is attached to."""

    networks: tuple[str, ...]
    subnets: frozenset[str] | None = None


def wanted_mac(source: Source) -> str | None:
    """The MAC by which to search a link-local source; None for a source with a fixed address (R-3).

    The MAC comes from the address (R-7), or from a filter that saw the packet (R-8). Raises `NotIdentified`
    without a MAC, and `Contradiction` when the two MACs differ.
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

    `subnets` are the subnets that the router is attached to, when the scope is a router. Raises
    `NotIdentified` for no instance and for several instances, and `Contradiction` as `wanted_mac` does.
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
    """R-6: several ports of one instance are one answer; several instances are no answer."""
    if not found:
        raise NotIdentified(f"{source}: no port of an instance")
    if len({(port.device_id, port.project_id) for port in found}) > 1:
        LOG.error("%s: several instances, ports %s", source, ", ".join(sorted(port.id for port in found)))
        raise NotIdentified(f"{source}: several instances")
    port = found[0]
    return Instance(port.device_id, port.project_id, port.id)


class Snapshot:
    """All ports of a scope. A snapshot answers as its back end did; `subnets` are as in `choose`."""

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


#: Version of this contract. A higher version means that resolvers for the old version do not work.
VERSION = 1

NAMESPACE = "mdmw.resolvers"


class Resolver(Protocol):
    """A resolver. It is made once, when the pipeline is loaded, and called from many threads.

    Optional members: `cheap = True` when a cache would not help; `options_for(given)`, a class method
    that returns the options when they depend on the texts of the section; `snapshot`, see `Prefetching`;
    `check()`, which says in a few words that the back end can be asked, or raises `Unavailable`.
    """

    #: The `VERSION` this class was written for.
    contract_version: ClassVar[int]

    #: Options that the resolver adds to the section of instance-resolve.
    options: ClassVar[Sequence[cfg.Opt]]

    def __init__(self, settings: SimpleNamespace) -> None:
        """`settings` has one attribute for each option, and `place` for messages. Raises `ConfigError`.

        The constructor may run before a server forks, so open connections on first use.
        """

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:
        """The one instance behind `source` (spec 2.1); with `fresh` no cache is used.

        Raises `NotIdentified` for no instance and for several instances (R-6), `Unavailable` for a
        temporary fault, and `Contradiction` when address and MAC do not fit together (R-8).
        """


class Prefetching(Resolver, Protocol):
    """A resolver that can also fetch all ports of a scope in one question.

    The cache then asks the back end once for a network, and not once for each guest. `partial = True`
    says that `resolve` finds ports that are not in the snapshot.
    """

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """All ports that `scope` reaches, or None when they are too many; raises as `resolve` does."""


def find(name: str) -> type[Resolver]:
    """The resolver class with this name in the entry points; raises `ConfigError`."""
    try:
        plugin: Any = DriverManager(NAMESPACE, name).driver
    except NoMatches as error:
        raise ConfigError(f"no resolver {name!r} in entry points {NAMESPACE!r}: {error}") from None
    version = getattr(plugin, "contract_version", None)
    if version != VERSION:
        raise ConfigError(f"resolver {name!r} is for contract version {version}, this is {VERSION}")
    resolver: type[Resolver] = plugin
    return resolver
