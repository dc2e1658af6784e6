"""Ask Keystone and Neutron, or an inventory, which instances have the addresses in question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

from mdmw.doctor.findings import Finding
from mdmw.errors import MdmwError, NotIdentified, Unavailable
from mdmw.filters import instance_resolve
from mdmw.records import Instance, Scope, Source, is_uuid
from mdmw.resolvers import keystone
from mdmw.resolvers.combined import AutoResolver
from mdmw.resolvers.contract import NETWORK_OWNER_PREFIX, Port, Resolver, choose, find
from mdmw.resolvers.keystone import Keystone, UnsharedToken, load_credentials
from mdmw.resolvers.neutron import NeutronResolver, RestQueries
from mdmw.upstream import transport
from mdmw.upstream.exchange import Limits
from mdmw.wsgi.pipelines import Stage

WITHIN = 1.0  # seconds, for each question to a service
LIMITS = Limits(
    connect_timeout=WITHIN,
    read_timeout=WITHIN,
    total_timeout=WITHIN,
    queue_timeout=WITHIN,
    idle_timeout=-1.0,  # no connection is kept
)
#: An id and an address that nothing has (RFC 5737), for questions whose answer must be empty.
NO_ID = "00000000-0000-0000-0000-000000000000"
NO_ADDRESS = "192.0.2.1"
_MOST_PORTS = 10000

#: A network or router, and the address of the guest, or None for all guests there.
AddressQuestion = tuple[Scope, str | None]


@dataclass(frozen=True, slots=True)
class NeutronAccess:
    """Access to Neutron's REST API. `auth_url` is the address of Keystone, None without Keystone."""

    keystone: Keystone
    queries: RestQueries
    auth_url: str | None


@dataclass(frozen=True, slots=True)
class KnownGuest:
    """A guest that has an address: its source, its instance, and its MAC if Neutron has a port."""

    source: Source
    instance: Instance
    mac: str | None = None


def neutron_access(stages: Sequence[Stage]) -> NeutronAccess | None:
    """None if the resolver of the pipeline does not ask Neutron by REST; raises `ConfigError`."""
    stage = stage_of(stages, "instance-resolve")
    if stage is None:
        return None
    kind, settings = instance_resolve.load_section(stage.global_conf, stage.local_conf)
    kinds = [kind, *map(find, getattr(settings, "chain", None) or ())]
    if not any(_asks_by_rest(one, settings) for one in kinds):
        return None
    credentials = load_credentials(settings)
    auth_url = getattr(credentials.plugin, "auth_url", None)
    client = Keystone(replace(credentials, timeout=None), LIMITS, UnsharedToken())
    return NeutronAccess(client, RestQueries(client.get, _MOST_PORTS), auth_url)


def local_resolver(stages: Sequence[Stage]) -> Resolver | None:
    """A resolver that asks no service, such as an inventory; None for another one. Raises `ConfigError`."""
    stage = stage_of(stages, "instance-resolve")
    if stage is None:
        return None
    kind, settings = instance_resolve.load_section(stage.global_conf, stage.local_conf)
    return kind(settings) if getattr(kind, "cheap", False) else None


def stage_of(stages: Sequence[Stage], entry_point: str) -> Stage | None:
    """The first stage with this entry point."""
    return next((stage for stage in stages if stage.entry_point == entry_point), None)


def _asks_by_rest(kind: type[Resolver], settings: SimpleNamespace) -> bool:
    if issubclass(kind, NeutronResolver):
        return True
    return issubclass(kind, AutoResolver) and keystone.has_credentials(settings)


# --- questions --------------------------------------------------------------------------


def ask_neutron(
    neutron: NeutronAccess, questions: Sequence[AddressQuestion]
) -> Iterator[Finding | KnownGuest]:
    """Ask Keystone for a token and Neutron each question; else ask Neutron for an unused address."""
    with transport.within(WITHIN):
        try:
            neutron.keystone.access()
        except Unavailable as error:
            yield _keystone_fault(neutron, error)
            return
    with transport.within(WITHIN):
        try:
            for scope, address in questions:
                yield from _guests(neutron, scope, address)
            if not questions:
                neutron.queries.by_address([NO_ID], NO_ADDRESS)
        except Unavailable as error:
            yield _neutron_fault(error)


def ask_resolver(resolver: Resolver, questions: Sequence[AddressQuestion]) -> Iterator[Finding | KnownGuest]:
    """Ask an inventory the questions that have an address."""
    for scope, address in questions:
        if address is None:
            continue
        source = Source(address, scope)
        try:
            yield KnownGuest(source, resolver.resolve(source, fresh=True))
        except NotIdentified as error:
            how = f"mdmw resolve --{scope.kind} {scope.id} --address {address}"
            yield _unknown(source, str(error), how)
        except MdmwError as error:
            how = "the resolver of the pipeline was asked"
            yield Finding("neutron", "resolver", str(error), how, ("mdmw check",))


def _guests(neutron: NeutronAccess, scope: Scope, address: str | None) -> Iterator[Finding | KnownGuest]:
    """The guest with the address; without an address, one guest of the scope and all duplicate addresses."""
    networks: tuple[str, ...] = (scope.id,)
    subnets: frozenset[str] | None = None
    if scope.kind == "router":
        interfaces = neutron.queries.router_interfaces(scope.id)
        if not interfaces:
            what = "Neutron has no interface of this router"
            mend = (f"openstack router add subnet {scope.id} SUBNET",)
            how = f"openstack port list --router {scope.id}"
            yield Finding("unknown-address", str(scope), what, how, mend)
            return
        networks = tuple(dict.fromkeys(port.network_id for port in interfaces))
        subnets = frozenset(subnet for port in interfaces for _, subnet in port.fixed_ips)
    if address:
        ports = neutron.queries.by_address(networks, address)
        yield _identified(ports, Source(address, scope), subnets)
        return
    guests = [port for port in neutron.queries.everything(networks) or () if _is_guest(port)]
    by_address: dict[str, list[Port]] = {}
    for port in guests:
        for fixed, subnet in port.fixed_ips:
            if subnets is None or subnet in subnets:
                by_address.setdefault(fixed, []).append(port)
    for fixed, ports in by_address.items():
        if len({(port.device_id, port.project_id) for port in ports}) > 1:
            yield _duplicate(Source(fixed, scope), ports)
    instances = [
        (fixed, port) for fixed, ports in by_address.items() for port in ports if _is_of_instance(port)
    ]
    for fixed, port in instances[:1]:
        instance = Instance(port.device_id, port.project_id, port.id)
        yield KnownGuest(Source(fixed, scope), instance, port.mac)


def _identified(
    ports: Sequence[Port], source: Source, subnets: frozenset[str] | None
) -> Finding | KnownGuest:
    guests = [port for port in ports if _is_guest(port)]
    try:
        instance = choose(ports, source, subnets)
    except NotIdentified as error:
        if len(guests) > 1:
            return _duplicate(source, guests)
        how = f"openstack port list --fixed-ip ip-address={source.address}"
        if ports:
            owners = ", ".join(f"port {port.id} of {port.device_owner or 'no device'}" for port in ports)
            return _unknown(source, f"only {owners} has this address", how)
        return _unknown(source, str(error), how)
    return KnownGuest(source, instance, next(port.mac for port in guests if port.id == instance.port_id))


def _is_guest(port: Port) -> bool:
    return bool(port.device_id) and not port.device_owner.startswith(NETWORK_OWNER_PREFIX)


def _is_of_instance(port: Port) -> bool:
    """Whether Nova made the port; load balancers and machines without Nova have ports too."""
    return port.device_owner.startswith("compute:") and is_uuid(port.device_id)


# --- findings ---------------------------------------------------------------------------


def _unknown(source: Source, why: str, how: str) -> Finding:
    mend = (
        "# compare the address inside the guest with the fixed address of its port, and check the network",
        f"openstack port list --{source.scope.kind} {source.scope.id}",
    )
    return Finding("unknown-address", str(source), f"no instance has this address: {why}", how, mend)


def _duplicate(source: Source, ports: Sequence[Port]) -> Finding:
    owners = ", ".join(f"{port.id} (instance {port.device_id})" for port in ports)
    how = f"openstack port list --fixed-ip ip-address={source.address}"
    mend = (
        "# for every port in this finding but one:",
        f"openstack port unset --fixed-ip ip-address={source.address} PORT",
    )
    what = f"several instances have this address: ports {owners}"
    return Finding("duplicate-address", str(source), what, how, mend)


def _keystone_fault(neutron: NeutronAccess, error: Unavailable) -> Finding:
    where = neutron.auth_url or "[neutron] auth_url"
    how = "a token was requested with the options in [neutron] of the configuration files"
    mend = (
        "# compare the options in [neutron] of the configuration files with the variables of this command:",
        "openstack token issue",
    )
    return Finding("keystone", where, f"Keystone gives no token: {error}", how, mend)


def _neutron_fault(error: Unavailable) -> Finding:
    mend = (
        "openstack port list --limit 1",
        "# if this command works: compare Neutron's address in the catalog, and the user, with [neutron]",
    )
    return Finding("neutron", "Neutron", str(error), "GET /v2.0/ports", mend)
