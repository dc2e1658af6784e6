"""The conformance suite over the cache, and over chains (R-1 to R-8)."""

from types import SimpleNamespace

import pytest
import yaml
from cached_cloud import ChainOf
from test_inventory_conformance import as_inventory

from mdmw.errors import Unavailable
from mdmw.resolvers.caching import CacheLimits, Caching
from mdmw.resolvers.contract import ROUTER_INTERFACE_OWNERS
from mdmw.resolvers.inventory import InventoryResolver
from mdmw.resolvers.neutron import PortResolver
from mdmw.testing.resolvers import WORLD, ResolverConformance, World


class WorldQueries:
    """`PortQueries` over a world."""

    def __init__(self, world, broken=False):
        self._ports = world.ports
        self._broken = broken

    def router_interfaces(self, router_id):
        owners = ROUTER_INTERFACE_OWNERS
        return self._those(lambda p: p.device_id == router_id and p.device_owner in owners)

    def by_address(self, networks, address):
        return self._those(lambda p: p.network_id in networks and address in dict(p.fixed_ips))

    def by_mac(self, networks, mac):
        return self._those(lambda p: p.network_id in networks and p.mac == mac)

    def everything(self, networks):
        return self._those(lambda p: p.network_id in networks)

    def _those(self, wanted):
        if self._broken:
            raise Unavailable("down")
        return [port for port in self._ports if wanted(port)]


class TestPrefetching(ResolverConformance):
    def make_resolver(self, world):
        return Caching(PortResolver(WorldQueries(world)), CacheLimits(idle=2.0))

    def make_broken_resolver(self):
        return Caching(PortResolver(WorldQueries(WORLD, broken=True)), CacheLimits(idle=2.0))


class TestOverInventory(ResolverConformance):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path):
        self.path = tmp_path / "inventory.yaml"

    def make_resolver(self, world):
        return Caching(self.inventory(world), CacheLimits(idle=2.0))

    def inventory(self, world):
        self.path.write_text(yaml.safe_dump(as_inventory(world)))
        return InventoryResolver(SimpleNamespace(inventory_file=str(self.path), place="test"))


class TestChain(TestOverInventory):
    """The first member knows nobody, so that everything comes from the second."""

    def make_resolver(self, world):
        return Caching(
            ChainOf(PortResolver(WorldQueries(World((), ()))), self.inventory(world)), CacheLimits(idle=2.0)
        )

    def make_broken_resolver(self):
        return Caching(ChainOf(broken(), PortResolver(WorldQueries(World((), ())))), CacheLimits(idle=2.0))


class TestChainThatPrefetches(ResolverConformance):
    """The first member knows everybody."""

    def make_resolver(self, world):
        return ChainOf(PortResolver(WorldQueries(world)), PortResolver(WorldQueries(World((), ()))))

    def make_broken_resolver(self):
        return ChainOf(broken(), broken())


def broken():
    return PortResolver(WorldQueries(WORLD, broken=True))
