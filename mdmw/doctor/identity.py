"""Keystone's token, and who Neutron or the inventory says that an address is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mdmw.doctor.findings import Finding
from mdmw.doctor.upstream import WITHIN, Neutron
from mdmw.errors import MdmwError, NotIdentified, Unavailable
from mdmw.records import Instance, Scope, Source, is_uuid
from mdmw.resolvers.contract import Resolver
from mdmw.resolvers.matching import NETWORK_OWNER_PREFIX, Port, choose
from mdmw.upstream import transport


@dataclass(frozen=True, slots=True)
class Known:
    """A guest: where, which instance it is, and its MAC if Neutron told."""

    source: Source
    instance: Instance
    mac: str | None = None


def ask_neutron(neutron: Neutron, questions: Sequence[tuple[Scope, str | None]]) -> Iterator[Finding | Known]:
    """A token, then for each scope the address, or, without one, all guests that there are."""
    with transport.within(WITHIN):
        try:
            neutron.keystone.access()
        except Unavailable as error:
            yield _keystone(neutron, error)
            return
    with transport.within(WITHIN):
        for scope, address in questions:
            try:
                yield from _of_scope(neutron, scope, address)
            except Unavailable as error:
                yield _neutron(error)
                return
        if not questions:
            try:
                neutron.queries.by_address(["00000000-0000-0000-0000-000000000000"], "192.0.2.1")
            except Unavailable as error:
                yield _neutron(error)


def ask_resolver(
    resolver: Resolver, questions: Sequence[tuple[Scope, str | None]]
) -> Iterator[Finding | Known]:
    """Of an inventory."""
    for scope, address in questions:
        if address is None:
            continue
        source = Source(address, scope)
        try:
            yield Known(source, resolver.resolve(source, fresh=True))
        except NotIdentified as error:
            yield _unknown(source, str(error), f"mdmw resolve --{scope.kind} {scope.id} --address {address}")
        except MdmwError as error:
            yield Finding("neutron", "resolver", str(error), "it was asked", ("mdmw check",))


def _of_scope(neutron: Neutron, scope: Scope, address: str | None) -> Iterator[Finding | Known]:
    networks: tuple[str, ...] = (scope.id,)
    subnets: frozenset[str] | None = None
    if scope.kind == "router":
        interfaces = neutron.queries.router_interfaces(scope.id)
        networks = tuple(dict.fromkeys(port.network_id for port in interfaces))
        subnets = frozenset(subnet for port in interfaces for _, subnet in port.fixed_ips)
        if not interfaces:
            how = f"openstack port list --router {scope.id}"
            mend = (f"openstack router add subnet {scope.id} SUBNET",)
            what = "Neutron knows no interface of this router"
            yield Finding("unknown-address", str(scope), what, how, mend)
            return
    if address:
        ports = neutron.queries.by_address(networks, address)
        yield _identified(ports, Source(address, scope), subnets)
        return
    everything = neutron.queries.everything(networks) or ()
    guests = [port for port in everything if _is_guest(port)]
    at: dict[str, list[Port]] = {}
    for port in guests:
        for fixed, subnet in port.fixed_ips:
            if subnets is None or subnet in subnets:
                at.setdefault(fixed, []).append(port)
    for fixed, ports in at.items():
        if len({(port.device_id, port.project_id) for port in ports}) > 1:
            yield _several(Source(fixed, scope), ports)
    of_nova = [(fixed, port) for fixed, ports in at.items() for port in ports if _is_of_nova(port)]
    for fixed, port in of_nova[:1]:
        yield Known(Source(fixed, scope), Instance(port.device_id, port.project_id, port.id), port.mac)


def _identified(ports: Sequence[Port], source: Source, subnets: frozenset[str] | None) -> Finding | Known:
    guests = [port for port in ports if _is_guest(port)]
    try:
        instance = choose(ports, source, subnets)
    except NotIdentified as error:
        if len(guests) > 1:
            return _several(source, guests)
        how = f"openstack port list --fixed-ip ip-address={source.address}"
        if ports:
            owners = ", ".join(f"port {port.id} of {port.device_owner or 'nobody'}" for port in ports)
            return _unknown(source, f"only {owners} has it", how)
        return _unknown(source, str(error), how)
    return Known(source, instance, next(port.mac for port in guests if port.id == instance.port_id))


def _is_guest(port: Port) -> bool:
    return bool(port.device_id) and not port.device_owner.startswith(NETWORK_OWNER_PREFIX)


def _is_of_nova(port: Port) -> bool:
    """Others have ports too: load balancers, machines without Nova."""
    return port.device_owner.startswith("compute:") and is_uuid(port.device_id)


def _unknown(source: Source, why: str, how: str) -> Finding:
    mend = (
        "# compare the address in the guest with that of its port; is it on this network at all?",
        f"openstack port list --{source.scope.kind} {source.scope.id}",
    )
    return Finding("unknown-address", str(source), f"no instance has this address: {why}", how, mend)


def _several(source: Source, ports: Sequence[Port]) -> Finding:
    who = ", ".join(f"{port.id} (instance {port.device_id})" for port in ports)
    how = f"openstack port list --fixed-ip ip-address={source.address}"
    mend = (f"openstack port unset --fixed-ip ip-address={source.address} PORT", "# of all but one of them")
    return Finding("duplicate-address", str(source), f"several instances have it: ports {who}", how, mend)


def _keystone(neutron: Neutron, error: Unavailable) -> Finding:
    mend = (
        "# compare [neutron] of the file with what works by hand:",
        "openstack token issue",
    )
    where = neutron.auth_url or "[neutron] auth_url"
    return Finding(
        "keystone",
        where,
        f"there is no token: {error}",
        "one was asked for, as [neutron] of the files says",
        mend,
    )


def _neutron(error: Unavailable) -> Finding:
    mend = (
        "openstack port list --limit 1",
        "# if that works, the address in the catalogue or its user differs",
    )
    return Finding("neutron", "Neutron", str(error), "GET /v2.0/ports", mend)
