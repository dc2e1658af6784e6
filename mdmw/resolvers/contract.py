"""What a resolver is: the public contract, version 1.

A resolver turns a `Source` into an `Instance`. It is a class named in the entry
point group `mdmw.resolvers` and used by `resolver = NAME` of instance-resolve.
`mdmw.testing.resolvers` has the tests that every resolver must pass.
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


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a scope extends: its networks, and for a router the subnets that it is attached to."""

    networks: tuple[str, ...]
    subnets: frozenset[str] | None = None


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


#: Goes up when a resolver written for the old number would no longer work.
VERSION = 1

NAMESPACE = "mdmw.resolvers"


class Resolver(Protocol):
    """A resolver. Made once at load, called from many threads at once.

    It may have more: `cheap = True`, when remembering its answers is not worth while;
    `options_for(given)`, a class method that gives the options when they depend on what is in
    the section (texts by name); `snapshot`, as `Prefetching` says;
    `check()`, which says in a few words that the back end can be asked, or raises `Unavailable`.
    """

    #: The `VERSION` this class was written for.
    contract_version: ClassVar[int]

    #: Options it adds to the section of instance-resolve.
    options: ClassVar[Sequence[cfg.Opt]]

    def __init__(self, settings: SimpleNamespace) -> None:
        """Take one attribute per option, and `place` for messages; raise `ConfigError`.

        Runs before a server forks: open connections on first use, not here.
        """

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:
        """The one instance behind `source` (spec 2.1); `fresh` skips every cache.

        Raises `NotIdentified` when there is none or more than one (R-6: never
        guess), `Unavailable` when that could not be found out just now, and
        `Contradiction` when the source contradicts itself (R-8).
        """


class Prefetching(Resolver, Protocol):
    """A resolver that can also fetch all that a scope reaches at once; optional.

    The cache then asks its back end once for a network, not once for each guest. With
    `partial = True` it knows of more than is in its snapshots.
    """

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """All ports of `scope`, or None when they are too many; raises as `resolve` does."""


def find(name: str) -> type[Resolver]:
    """The resolver class called `name`; `ConfigError` says what there is instead."""
    try:
        plugin: Any = DriverManager(NAMESPACE, name).driver
    except NoMatches as error:
        raise ConfigError(f"no resolver {name!r} in entry points {NAMESPACE!r}: {error}") from None
    version = getattr(plugin, "contract_version", None)
    if version != VERSION:
        raise ConfigError(f"resolver {name!r} is for contract version {version}, this is {VERSION}")
    resolver: type[Resolver] = plugin
    return resolver
