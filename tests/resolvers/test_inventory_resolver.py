"""The inventory resolver on the shipped sample, and with a file that changes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mdmw.errors import ConfigError, NotIdentified
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers import contract
from mdmw.resolvers.inventory import InventoryResolver

SAMPLE = Path(__file__).parents[2] / "etc" / "inventory.yaml"
BLUE = Scope("network", "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31")
GREEN = Scope("network", "c47e0d96-2b81-4a3f-8f57-e09d6c1a5b74")
RED = Scope("network", "90b5d2f7-e16a-4c89-b34d-6f2a8e7c0d15")
ROUTER = Scope("router", "b28e6f41-5d07-49ca-8c9f-13a4d7e0b652")


def make(path):
    return InventoryResolver(SimpleNamespace(inventory_file=str(path), place="test"))


def test_is_found_by_its_entry_point():
    assert contract.find("inventory") is InventoryResolver


def test_r1_sample_same_address_on_two_networks():
    """R-1: blue and green have a guest each at 10.0.0.5."""
    resolver = make(SAMPLE)
    blue = resolver.resolve(Source("10.0.0.5", BLUE))
    green = resolver.resolve(Source("10.0.0.5", GREEN))
    assert blue == Instance(
        "7c52af88-d14b-45ae-87cf-be154d8c8638",
        "4a1d0c7be6f94b5d9a3e8f2071c6d5b4",
        "a3f04c61-8e2d-47b9-95d0-c6e71b8f2a43",
    )
    assert green.id == "d0386b9e-41f7-4c25-b8ae-7f5c92e1d604"


@pytest.mark.parametrize("address", ["10.0.1.5", "fd00:1::f816:3eff:fe7d:1105", "fe80::f816:3eff:fe7d:1105"])
@pytest.mark.parametrize("scope", [RED, ROUTER])
def test_r2_sample_behind_the_router(scope, address):
    """R-1, R-2, R-7: the red guest by network and by router, by each of its addresses."""
    assert make(SAMPLE).resolve(Source(address, scope)).id == "6be41d0f-a75c-4938-9e02-38d1f5c7ba6e"


def test_r2_sample_isolated_networks_are_not_behind_it():
    """R-2: blue and green are attached to no router."""
    with pytest.raises(NotIdentified):
        make(SAMPLE).resolve(Source("10.0.0.5", ROUTER))


def test_a_changed_file_is_used_and_a_broken_one_is_not(tmp_path, monkeypatch, caplog):
    path = tmp_path / "inventory.yaml"
    path.write_text(SAMPLE.read_text())
    resolver = make(path)
    monkeypatch.setattr(resolver._tables._source, "_interval", 0)
    monkeypatch.setattr(resolver._tables._source, "_next_look", 0)
    path.write_text(SAMPLE.read_text().replace("addresses: [10.0.0.5]", "addresses: [10.0.0.55]", 1))
    assert resolver.resolve(Source("10.0.0.55", BLUE)).id.startswith("7c52af88")
    path.write_text(path.read_text().replace("networks:", "netwroks:", 1))
    assert resolver.resolve(Source("10.0.0.55", BLUE)).id.startswith("7c52af88")
    assert "netwroks: unknown key" in caplog.text


def test_a_bad_file_at_load(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        make(tmp_path / "none.yaml")
