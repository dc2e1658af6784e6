"""The conformance suite finds what it is for: resolvers that guess, and faults that look like absence."""

import pytest

from mdmw.errors import NotIdentified, Unavailable
from mdmw.records import Instance
from mdmw.resolvers.contract import ROUTER_INTERFACE_OWNERS, choose
from mdmw.testing.resolvers import WORLD, ResolverConformance


class Honest:
    contract_version = 1
    options = ()

    def __init__(self, world, broken=False):
        self.world = world
        self.broken = broken

    def resolve(self, source, *, fresh=False):
        if self.broken:
            raise Unavailable("down")
        networks, subnets = {source.scope.id}, None
        if source.scope.kind == "router":
            mine = [p for p in self.world.ports if p.device_id == source.scope.id]
            interfaces = [p for p in mine if p.device_owner in ROUTER_INTERFACE_OWNERS]
            networks = {p.network_id for p in interfaces}
            subnets = {subnet for p in interfaces for _, subnet in p.fixed_ips}
        return choose((p for p in self.world.ports if p.network_id in networks), source, subnets)


class TestHonest(ResolverConformance):
    def make_resolver(self, world):
        return Honest(world)

    def make_broken_resolver(self):
        return Honest(WORLD, broken=True)


class Everywhere(Honest):
    """R-2 forgotten: an empty list of networks searches everywhere."""

    def resolve(self, source, *, fresh=False):
        try:
            return super().resolve(source)
        except NotIdentified:
            return choose(self.world.ports, source)


class AnyMatch(Honest):
    """R-6 forgotten: takes the first."""

    def resolve(self, source, *, fresh=False):
        for port in self.world.ports:
            if source.address in dict(port.fixed_ips) and port.device_id:
                return Instance(port.device_id, port.project_id, port.id)
        raise NotIdentified("nobody")


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Everywhere, "test_r2_router_without_interfaces_is_nobody"),
        (Everywhere, "test_r1_unknown_network_is_nobody"),
        (AnyMatch, "test_r1_finds_within_the_network_only"),
        (AnyMatch, "test_r4_ports_of_the_cloud_are_nobody"),
        (AnyMatch, "test_r7_mac_from_the_address"),
    ],
)
def test_a_wrong_resolver_fails(kind, test):
    class Suite(ResolverConformance):
        def make_resolver(self, world):
            return kind(world)

    with pytest.raises((AssertionError, NotIdentified)):
        getattr(Suite(), test)()


def test_absent_instead_of_unavailable_fails():
    class Suite(ResolverConformance):
        def make_resolver(self, world):
            return Honest(world)

        def make_broken_resolver(self):
            return Honest(type(WORLD)((), ()))

    with pytest.raises(NotIdentified):
        Suite().test_unavailable_is_not_absent()
