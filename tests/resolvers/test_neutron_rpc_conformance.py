"""The RPC resolver against the shipped conformance suite (R-1 to R-8), over a real RabbitMQ."""

import neutron_rpc_server
import pytest
import rabbit as rabbits

from mdmw.testing.resolvers import WORLD, ResolverConformance, World


@pytest.fixture(scope="module")
def resolver(rabbit, neutron_rpc):
    with neutron_rpc_server.resolving(rabbit.url()) as resolver:
        yield resolver


class TestNeutronRpcResolver(ResolverConformance):
    @pytest.fixture(autouse=True)
    def _served(self, resolver):
        self.resolver = resolver

    def make_resolver(self, world: World):
        assert world is WORLD
        return self.resolver

    def make_broken_resolver(self):
        (port,) = rabbits.free_ports(1)
        return neutron_rpc_server.resolver_at(f"rabbit://neutron:secret@127.0.0.1:{port}/")
