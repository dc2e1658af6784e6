"""mdmw-node without OpenStack, from a database: its own user reads what root and others write."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import USER, site
from kvm_host import ask, made, run, without_clients
from test_planner_file import Kvm, Network

from mdmw.inventory.file import load
from mdmw.inventory.store import Caller, InventoryStore

pytestmark = pytest.mark.skipif(bool(without_clients()), reason=f"needs root and: {without_clients()}")
ROOT = Caller("uid 0")


class KvmWithDatabase(Kvm):
    """Planner and workers read a database that is theirs."""

    pipelines = Kvm.pipelines.replace(
        "inventory_file = {inventory}", "inventory_db = {directory}/db/inventory.sqlite"
    )

    @property
    def database(self) -> Path:
        return self.host.directory / "db" / "inventory.sqlite"

    @property
    def source(self) -> list[str]:
        return ["--set", f"inventory_db={self.database}"]

    def write_text(self, text: str) -> None:
        self.inventory.write_text(text)
        self.store = InventoryStore(str(self.database))
        for path in (self.database.parent, self.database):
            shutil.chown(path, USER)
        self.store.fill(load(self.inventory), ROOT, replace=True)


@pytest.fixture(scope="module")
def kvm() -> Iterator[KvmWithDatabase]:
    with made() as host, site() as place:
        yield KvmWithDatabase(host, place)


def test_from_a_database_to_an_answer(kvm: KvmWithDatabase) -> None:
    """4.3: a network that is created is served, with its guest; one that is deleted is not."""
    kvm.until_answered()
    network = Network(3, kvm.host.bridge())
    made = kvm.store.create("networks", network.described(), ROOT)
    kvm.store.create("instances", network.instance(), ROOT)
    kvm.until_listening(network)
    guest = kvm.host.guest(network.bridge, network.mac)
    kvm.host.lease(guest, "udhcpc")
    assert json.loads(ask(guest))["uuid"] == network.guest
    run("ip", "netns", "delete", guest)
    kvm.store.delete("instances", network.guest, None, ROOT)
    kvm.store.delete("networks", network.id, made.version, ROOT)
    kvm.place.until(lambda: network.id not in kvm.served())
    assert {path.owner() for path in kvm.database.parent.iterdir()} == {USER}
