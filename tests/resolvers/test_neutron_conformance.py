"""The resolver over Neutron's REST API against the shipped conformance suite (R-1 to R-8)."""

import pytest
from neutron_api import Cloud

from mdmw.testing.resolvers import ResolverConformance, World


class TestNeutronResolver(ResolverConformance):
    @pytest.fixture(autouse=True)
    def _make(self, peers, neutron):
        self.peers = peers
        self.neutron = neutron

    def make_resolver(self, world: World):
        return self.neutron(Cloud(self.peers, world))

    def make_broken_resolver(self):
        return self.neutron(group={"endpoint_override": str(self.peers.refusing())})
