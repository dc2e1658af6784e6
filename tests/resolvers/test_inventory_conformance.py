"""The inventory resolver against the shipped conformance suite (R-1 to R-8)."""

from types import SimpleNamespace

import pytest
import yaml

from mdmw.inventory.file import load
from mdmw.inventory.store import Caller, InventoryStore
from mdmw.resolvers.contract import NETWORK_OWNER_PREFIX, ROUTER_INTERFACE_OWNERS
from mdmw.resolvers.inventory import InventoryResolver
from mdmw.testing.resolvers import ResolverConformance, World


class TestInventoryResolver(ResolverConformance):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path):
        self.path = tmp_path / "inventory.yaml"

    def make_resolver(self, world: World):
        self.path.write_text(yaml.safe_dump(as_inventory(world)))
        return InventoryResolver(SimpleNamespace(inventory_file=str(self.path), place="test"))


class TestInventoryResolverWithDatabase(ResolverConformance):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path):
        self.path = tmp_path / "inventory.yaml"

    def make_resolver(self, world: World):
        self.path.write_text(yaml.safe_dump(as_inventory(world)))
        database = str(self.path.with_suffix(".sqlite"))
        InventoryStore(database).fill(load(self.path), Caller("test"), replace=True)
        return InventoryResolver(SimpleNamespace(inventory_db=database, place="test"))


def as_inventory(world: World) -> dict:
    """The world as an inventory file; it has no ports without a device, and none of the cloud."""
    networks, routers, instances = {}, {}, {}
    for subnet in world.subnets:
        network = networks.setdefault(subnet.network_id, {"id": subnet.network_id, "subnets": []})
        network["subnets"].append({"id": subnet.id, "cidr": subnet.cidr})
    for port in world.ports:
        if "router" in port.device_owner:
            router = routers.setdefault(port.device_id, {"id": port.device_id, "interfaces": []})
            if port.device_owner in ROUTER_INTERFACE_OWNERS:
                router["interfaces"] += [{"subnet": s, "address": a} for a, s in port.fixed_ips]
        elif port.device_id and not port.device_owner.startswith(NETWORK_OWNER_PREFIX):
            guest = {"id": port.device_id, "project_id": port.project_id, "name": "guest", "ports": []}
            instances.setdefault(port.device_id, guest)["ports"].append(
                {
                    "id": port.id,
                    "network": port.network_id,
                    "mac": port.mac,
                    "project_id": port.project_id,
                    "addresses": [address for address, _ in port.fixed_ips],
                }
            )
    return {
        "networks": list(networks.values()),
        "routers": list(routers.values()),
        "instances": list(instances.values()),
    }
