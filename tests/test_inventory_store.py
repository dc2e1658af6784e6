"""The embedded inventory: resources with versions, whole after each change, and a record of each change."""

import functools
import ipaddress
import multiprocessing
import os
import random
import sqlite3
import stat
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_inventory_document import inventories

from mdmw import checked_yaml
from mdmw.errors import BadRequest, ConfigError, Conflict, NotFound, Outdated, Unavailable
from mdmw.inventory import sqlite
from mdmw.inventory.claims import write_all_claims
from mdmw.inventory.entries import check_inventory, of_entry
from mdmw.inventory.file import load
from mdmw.inventory.sqlite import KINDS, Reader
from mdmw.inventory.store import Caller, InventoryStore
from mdmw.inventory.values import Guest, Inventory, InventoryPort, Network, Subnet

SAMPLE = load(Path(__file__).parents[1] / "etc" / "inventory.yaml")
BLUE, GREEN, RED = SAMPLE.networks
ADA = SAMPLE.instances[0]
ID = "44444444-0000-4000-8000-000000000001"
SECRET = "s3cret-of-the-tests"
OPS = Caller("ada", "u-1", "p-1", "req-1")
NEW_GUEST = {"id": ID, "project_id": "p", "name": "new"}


def port(**changes):
    """A document of a guest with a port on blue."""
    described = {"id": ID, "network": BLUE.id, "mac": "fa:16:3e:00:00:01", "addresses": ["10.0.0.9"]}
    return NEW_GUEST | {"ports": [described | changes]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "inventory.sqlite"


@pytest.fixture
def store(path):
    return InventoryStore(str(path))


@pytest.fixture
def full(store):
    store.fill(SAMPLE, OPS)
    return store


# --- resources ----------------------------------------------------------------------------------


def test_from_nothing_to_nothing(store, path):
    made = store.create("networks", {"id": ID, "name": "one"}, OPS)
    assert store.get("networks", ID) == made
    again = store.replace("networks", ID, {"id": ID, "mtu": 1450}, made.version, OPS)
    assert store.get("networks", ID) == again
    assert again.document == {"id": ID, "mtu": 1450}
    assert again.version > made.version
    assert [network.mtu for network in Reader(path).read().networks] == [1450]
    store.delete("networks", ID, again.version, OPS)
    with pytest.raises(NotFound):
        store.get("networks", ID)
    assert Reader(path).read() == Inventory()


def test_what_comes_back_is_in_one_form(full):
    document = port(mac="FA-16-3E-00-00-01", addresses=["::ffff:10.0.0.9"], vif_type=None) | {
        "launch_index": 0
    }
    found = full.create("instances", document, OPS)
    assert found.document == port()
    assert full.get("instances", ID).document == port()


def test_a_version_is_never_that_of_something_else(store, path):
    first = store.create("networks", {"id": ID}, OPS)
    store.delete("networks", ID, first.version, OPS)
    assert store.create("networks", {"id": ID}, OPS).version > first.version
    path.unlink()
    other = InventoryStore(str(path)).create("networks", {"id": ID}, OPS)
    assert other.version != first.version


def test_the_same_again_is_no_change(full):
    before = full.get("instances", ADA.id)
    assert full.replace("instances", ADA.id, before.document, before.version, OPS) == before
    assert full.changes(limit=1)[0].action == "create"


def test_true_is_not_one(store):
    first = store.create("instances", NEW_GUEST | {"vendor_data": {"a": True}}, OPS)
    second = store.replace("instances", ID, NEW_GUEST | {"vendor_data": {"a": 1}}, first.version, OPS)
    assert second.version > first.version
    assert store.get("instances", ID).document["vendor_data"]["a"] is not True


def test_outdated(full):
    """RFC 9110 13.1.1: who has not seen the last change makes none."""
    seen = full.get("networks", RED.id)
    full.replace("networks", RED.id, {**seen.document, "name": "mine"}, seen.version, OPS)
    with pytest.raises(Outdated):
        full.replace("networks", RED.id, {**seen.document, "name": "yours"}, seen.version, OPS)
    with pytest.raises(Outdated):
        full.delete("networks", RED.id, seen.version, OPS)
    assert full.get("networks", RED.id).document["name"] == "mine"
    full.replace("networks", RED.id, {**seen.document, "name": "anybody's"}, None, OPS)


def test_what_is_not_there(full):
    for call in (
        lambda: full.get("networks", ADA.id),
        lambda: full.replace("networks", ID, {"id": ID}, None, OPS),
        lambda: full.delete("routers", ID, None, OPS),
        lambda: full.page("instances", after=ID),
    ):
        with pytest.raises(NotFound):
            call()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "the document: a key is missing: id"),
        ([], "the document: a list is not allowed here, a mapping is"),
        (NEW_GUEST | {"colour": 1}, "colour: unknown key"),
        (port(mac="x"), "ports[0].mac: 'x': a MAC address"),
        (NEW_GUEST | {"user_data_file": "/etc/shadow"}, "user_data_file: only a file can name"),
        (NEW_GUEST | {"password": SECRET * 60}, "password: at most 1020 bytes are allowed"),
    ],
)
def test_a_wrong_document(full, document, said):
    with pytest.raises(BadRequest) as error:
        full.create("instances", document, OPS)
    assert str(error.value).startswith(said)
    assert SECRET not in str(error.value)
    assert len(full.page("instances")) == len(SAMPLE.instances)


def test_an_id_stays(full):
    with pytest.raises(BadRequest, match=f"id: {ADA.id} is allowed"):
        full.replace("instances", ADA.id, NEW_GUEST, None, OPS)


@pytest.mark.parametrize(
    ("kind", "document", "said"),
    [
        ("instances", NEW_GUEST | {"id": ADA.id}, f"instances[{ADA.id}] is there already"),
        (
            "instances",
            port(network=ID),
            f"instances[{ID}].ports[0].network: there is no network with this id",
        ),
        (
            "instances",
            port(addresses=["10.0.0.5"]),
            f"instances[{ID}].ports[0].addresses[0]: this address is already that of "
            f"instances[{ADA.id}].ports[0].addresses[0]",
        ),
        (
            "instances",
            port(mac=ADA.ports[0].mac),
            f"instances[{ID}].ports[0].mac: this MAC address is already that of "
            f"instances[{ADA.id}].ports[0].mac",
        ),
        ("instances", port(id=ADA.ports[0].id), f"instances[{ID}].ports[0].id: this id is already that of"),
        (
            "instances",
            port(addresses=["10.1.0.5"]),
            f"instances[{ID}].ports[0].addresses[0]: 10.1.0.5 is in no",
        ),
        ("networks", {"id": ID, "bridge": BLUE.bridge}, f"networks[{ID}].bridge: this bridge is already"),
        (
            "routers",
            {"id": ID, "interfaces": [{"subnet": ID}]},
            f"routers[{ID}].interfaces[0].subnet: no network has this subnet",
        ),
    ],
)
def test_what_does_not_fit_the_others(full, path, kind, document, said):
    with pytest.raises(Conflict) as error:
        full.create(kind, document, OPS)
    assert str(error.value).startswith(said)
    assert Reader(path).read() == SAMPLE
    assert len(full.changes()) == 7


def test_what_others_need_stays(full, path):
    with pytest.raises(Conflict, match=f"instances\\[{ADA.id}\\].ports\\[0\\].network: there is no network"):
        full.delete("networks", BLUE.id, None, OPS)
    with pytest.raises(Conflict, match="is in no subnet of its network"):
        full.replace("networks", BLUE.id, {"id": BLUE.id}, None, OPS)
    assert Reader(path).read() == SAMPLE
    full.delete("instances", ADA.id, None, OPS)
    full.delete("networks", BLUE.id, None, OPS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(text=st.text(st.characters()), number=st.integers())
@example("\ud800", 2**70)
@example("\0", -(2**70))
def test_whatever_is_asked_for(full, text, number):
    """It is not there; that is all."""
    for kind in KINDS:
        with pytest.raises(NotFound):
            full.get(kind, text)
    assert full.changes(id=text) == []
    first = full.changes()[-1].number
    assert (full.changes(before=number) == []) == (number <= first)


def test_pages(full):
    ids = [guest.id for guest in SAMPLE.instances]
    assert [one.id for one in full.page("instances")] == ids
    assert [one.id for one in full.page("instances", limit=2)] == ids[:2]
    assert [one.id for one in full.page("instances", limit=2, after=ids[1])] == ids[2:]
    assert full.page("instances", after=ids[2]) == []
    assert [one.document for one in full.page("networks")] == [
        of_entry(network) for network in SAMPLE.networks
    ]


# --- changes ------------------------------------------------------------------------------------


def test_changes(store):
    before = datetime.now(UTC)
    first = store.create("instances", NEW_GUEST, OPS)
    second = store.replace(
        "instances", ID, NEW_GUEST | {"name": "other", "password": SECRET}, first.version, Caller("uid 0")
    )
    store.delete("instances", ID, second.version, OPS)
    deleted, replaced, created = store.changes()
    assert [one.action for one in (created, replaced, deleted)] == ["create", "replace", "delete"]
    assert (created.caller, replaced.caller) == (OPS, Caller("uid 0"))
    assert {(one.kind, one.id) for one in (created, replaced, deleted)} == {("instances", ID)}
    assert [(one.old_version, one.new_version) for one in (created, replaced, deleted)] == [
        (None, first.version),
        (first.version, second.version),
        (second.version, None),
    ]
    assert created.fields == ("id", "project_id", "name")
    assert replaced.fields == ("name", "password")
    assert deleted.fields == ("id", "project_id", "name", "password")
    assert before - timedelta(seconds=1) < created.time <= replaced.time <= deleted.time <= datetime.now(UTC)


def test_changes_by_the_page(full):
    everything = full.changes()
    assert [one.id for one in everything] == [
        entry.id for kind in reversed(KINDS) for entry in reversed(getattr(SAMPLE, kind))
    ]
    assert full.changes(limit=2) == everything[:2]
    assert full.changes(before=everything[1].number) == everything[2:]
    assert full.changes(kind="networks") == [one for one in everything if one.kind == "networks"]
    assert full.changes(kind="instances", id=ADA.id) == [one for one in everything if one.id == ADA.id]


def test_old_changes_are_forgotten(full, path):
    newest = full.changes()[0]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE changes SET time = time - 3600 WHERE number < ?", (newest.number,))
    InventoryStore(str(path)).create("networks", {"id": ID}, OPS)
    assert len(full.changes()) == 8
    InventoryStore(str(path), retention=1800).delete("networks", ID, None, OPS)
    assert [one.action for one in full.changes()] == ["delete", "create", "create"]


# --- secrets ------------------------------------------------------------------------------------


def test_a_secret_is_for_the_owner_and_for_nobody_else(store, path, caplog):
    document = NEW_GUEST | {"password": SECRET, "user_data": SECRET, "admin_pass": SECRET}
    made = store.create("instances", document, OPS)
    files = [file for file in path.parent.iterdir() if SECRET.encode() in file.read_bytes()]
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert SECRET not in repr(made) + repr(store.changes()) + caplog.text
    with closing(sqlite3.connect(path)) as database:
        assert SECRET not in "".join(map(str, database.execute("SELECT * FROM changes")))
    store.delete("instances", ID, None, OPS)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert [file for file in path.parent.iterdir() if SECRET.encode() in file.read_bytes()] == []


# --- filling ------------------------------------------------------------------------------------


def test_filling_twice_needs_a_word(full, path):
    with pytest.raises(Conflict, match="has an inventory already"):
        full.fill(SAMPLE, OPS)
    assert full.fill(SAMPLE, OPS, replace=True) == 0
    version = full.get("networks", BLUE.id).version
    smaller = Inventory(SAMPLE.networks, (), (ADA,))
    assert full.fill(smaller, OPS, replace=True) == 3
    assert Reader(path).read() == smaller
    assert full.get("networks", BLUE.id).version == version


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(inventory=inventories(), then=inventories())
def test_what_is_filled_in_is_read(tmp_path_factory, inventory, then):
    path = tmp_path_factory.mktemp("db") / "inventory"
    store = InventoryStore(str(path))
    store.fill(inventory, OPS)
    reader = Reader(path)
    assert reader.read() == inventory
    store.fill(then, OPS, replace=True)
    read = reader.read()
    assert [sorted(getattr(read, kind), key=repr) for kind in KINDS] == [
        sorted(getattr(then, kind), key=repr) for kind in KINDS
    ]


# --- several at once ------------------------------------------------------------------------------


def _add(path, start, number):
    store = InventoryStore(path)
    for i in range(start, start + number):
        document = {"id": f"44444444-0000-4000-8000-{i:012d}", "project_id": "p", "name": f"g{i}"}
        store.create("instances", document, Caller(f"process {start}"))


def _all(kind, *arguments):
    workers = [kind(target=_add, args=(*arguments, start, 10)) for start in (0, 100, 200, 300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return workers


def test_several_processes(path):
    """None of them made the database before the others came."""
    workers = _all(multiprocessing.get_context("fork").Process, str(path))
    assert [worker.exitcode for worker in workers] == [0] * 4
    store = InventoryStore(str(path))
    changes = store.changes()
    assert len(Reader(path).read().instances) == len(changes) == 40
    assert len({change.number for change in changes}) == 40
    assert {store.get(one.kind, one.id).version for one in changes} == {one.new_version for one in changes}


def test_several_threads(store, path):
    seen = []

    def change(n):
        for _ in range(20):
            found = store.get("networks", ID)
            try:
                mtu = found.document.get("mtu", 100) + 1
                store.replace("networks", ID, {"id": ID, "mtu": mtu}, found.version, OPS)
                seen.append(mtu)
            except Outdated:
                continue

    store.create("networks", {"id": ID}, OPS)
    threads = [threading.Thread(target=change, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == list(range(101, 101 + len(seen)))
    assert store.get("networks", ID).document["mtu"] == 100 + len(seen)


def test_who_reads_holds_up_nobody(full, path):
    """And goes on reading what was there when it began."""
    with sqlite.reading(path) as database:
        contents = sqlite.Contents()
        assert contents.read(database) == SAMPLE
        full.delete("instances", ADA.id, None, OPS)
        assert contents.read(database) == SAMPLE
    assert Reader(path).read() != SAMPLE


def test_a_crash_in_the_middle_changes_nothing(full, path):
    def crash():
        with sqlite.writing(path) as database:
            database.execute("DELETE FROM resources")
            os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=crash)
    process.start()
    process.join(60)
    assert Reader(path).read() == SAMPLE
    full.delete("instances", ADA.id, None, OPS)


# --- what is wrong with the file --------------------------------------------------------------------


def test_a_locked_database_is_a_passing_fault(full, path, monkeypatch):
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="database is locked"):
            full.create("networks", {"id": ID}, OPS)
        assert full.get("networks", BLUE.id).document["name"] == "blue"
    full.create("networks", {"id": ID}, OPS)


def test_a_database_that_is_gone_is_a_passing_fault(full, path):
    path.rename(path.with_name("other"))
    for call in (lambda: full.get("networks", BLUE.id), lambda: full.create("networks", {"id": ID}, OPS)):
        with pytest.raises(Unavailable, match="there is no such file"):
            call()


@pytest.mark.parametrize("content", [b"", b"networks: []\n" * 200, None])
def test_files_that_are_no_inventory(tmp_path, content):
    path = tmp_path / "file"
    if content is None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE passwords (instance_id TEXT)")
        content = path.read_bytes()
    path.write_bytes(content)
    for make in (lambda: InventoryStore(str(path)), Reader(path).read):
        with pytest.raises(ConfigError) as error:
            make()
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_places_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "below", Path("/proc/nothing/inventory")):
        with pytest.raises(ConfigError, match=str(path)):
            InventoryStore(str(path))


def test_names_that_are_odd_in_an_address(tmp_path):
    path = tmp_path / "a?mode=memory#b %41"
    InventoryStore(str(path)).fill(SAMPLE, OPS)
    assert os.listdir(tmp_path)[0].startswith("a?mode=memory#b %41")
    assert Reader(path).read() == SAMPLE


@pytest.mark.parametrize(
    ("statement", "said", "change", "error_of_change"),
    [
        (
            "UPDATE resources SET document = replace(document, 'fa:16:3e:5b:10:05', 'x')",
            "mac: 'x': a MAC address",
            lambda store: store.delete("networks", BLUE.id, None, OPS),
            Unavailable,
        ),
        (
            "DELETE FROM resources WHERE kind = 'networks'",
            "interfaces[0].subnet: no network has this subnet",
            lambda store: store.create("instances", port(), OPS),
            Conflict,
        ),
    ],
)
def test_what_another_program_has_written_is_checked(full, path, statement, said, change, error_of_change):
    """When it is read, and by each change that has to do with it."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
    with pytest.raises(ConfigError) as error:
        Reader(path).read()
    assert said in str(error.value)
    with pytest.raises(error_of_change):
        change(full)


def test_a_wrong_document_of_another_program_can_be_replaced(full, path):
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE resources SET document = '{}' WHERE id = ?", (ADA.id,))
    full.replace("instances", ADA.id, of_entry(ADA), None, OPS)
    assert Reader(path).read() == SAMPLE


# --- a change is checked against the resources that it can conflict with --------------------------


def claims_in(path):
    with closing(sqlite3.connect(path)) as database:
        return set(database.execute("SELECT key, kind, id FROM claims"))


def rebuilt_claims(path, inventory):
    with sqlite.writing(path) as database:
        write_all_claims(database, inventory)
    return claims_in(path)


class Dice:
    """Documents from so few ids and addresses that most changes conflict with something."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def id(self, kind, most):
        return f"{kind}0000000-0000-4000-8000-00000000000{self.random.randrange(most)}"

    def address(self):
        return f"10.0.{self.random.randrange(3)}.{self.random.randrange(1, 6)}"

    def maybe(self, **values):
        return {key: value for key, value in values.items() if self.random.random() < 0.5}

    def several(self, most, make):
        return [make() for _ in range(self.random.randrange(most + 1))]

    def networks(self):
        def subnet():
            third = self.random.randrange(3)
            return {"id": self.id("b", 4), "cidr": f"10.0.{third}.0/24"} | self.maybe(
                gateway_ip=self.address(), dhcp_address=f"10.0.{third}.{self.random.randrange(1, 6)}"
            )

        return {"id": self.id("a", 3), "subnets": self.several(2, subnet)} | self.maybe(
            bridge=f"br{self.random.randrange(2)}"
        )

    def routers(self):
        def interface():
            return {"subnet": self.id("b", 4)} | self.maybe(address=self.address())

        return {"id": self.id("c", 3), "interfaces": self.several(2, interface)}

    def instances(self):
        def one():
            return {
                "id": self.id("e", 6),
                "network": self.id("a", 3),
                "mac": f"fa:16:3e:00:00:0{self.random.randrange(6)}",
                "addresses": self.several(2, self.address),
            }

        return {"id": self.id("d", 5), "project_id": "p", "name": "g", "ports": self.several(2, one)}


def whole_check(entries):
    """What a check of the whole inventory says."""
    inventory = Inventory(**{kind: tuple(entries[kind].values()) for kind in KINDS})
    try:
        check_inventory(inventory, sqlite.places_in(inventory))
    except ConfigError as error:
        return str(error).partition(":")[2].partition("already that")[0]
    return None


@pytest.mark.parametrize("seed", range(8))
def test_a_change_is_refused_when_a_check_of_the_whole_inventory_refuses_it(store, path, seed):
    """Creating, replacing and deleting, of each kind."""
    dice = Dice(seed)
    entries = {kind: {} for kind in KINDS}
    verdicts = Counter()
    for _ in range(250):
        kind = dice.random.choice(["networks", "routers", "instances", "instances"])
        document = getattr(dice, kind)()
        id_ = document["id"]
        try:
            entry = KINDS[kind](checked_yaml.document(document))
        except ConfigError:  # it is wrong by itself
            continue
        after = {one: dict(of_kind) for one, of_kind in entries.items()}
        if id_ not in entries[kind]:
            after[kind][id_] = entry
            change = functools.partial(store.create, kind, document, OPS)
        elif dice.random.random() < 0.3:
            del after[kind][id_]
            change = functools.partial(store.delete, kind, id_, None, OPS)
        else:
            after[kind][id_] = entry
            change = functools.partial(store.replace, kind, id_, document, None, OPS)
        expected = whole_check(after)
        verdicts[kind, change.func.__name__, expected is None] += 1
        if expected is None:
            change()
            entries = after
        else:
            with pytest.raises(Conflict) as error:
                change()
            assert str(error.value).partition(":")[2].partition("already that")[0] == expected
    read = Reader(path).read()
    assert read == Inventory(**{kind: tuple(entries[kind].values()) for kind in KINDS})
    assert claims_in(path) == rebuilt_claims(path, read)
    assert len(verdicts) > 12


def guests(number):
    network = Network(ID, subnets=(Subnet(RED.subnets[0].id, ipaddress.ip_network("10.0.0.0/16")),))
    return Inventory(
        (network,),
        (),
        tuple(
            Guest(
                f"55555555-0000-4000-8000-{i:012d}",
                "p",
                "g",
                ports=(
                    InventoryPort(
                        f"66666666-0000-4000-8000-{i:012d}",
                        ID,
                        f"fa:16:3e:00:{i >> 8:02x}:{i & 255:02x}",
                        (f"10.0.{i >> 7}.{i & 127}",),
                    ),
                ),
            )
            for i in range(number)
        ),
    )


def test_the_cost_of_a_change_does_not_grow_with_the_inventory(tmp_path):
    """Processor time, the best of several: of a new instance, a deletion, a network with another name."""
    best = {}
    for number in (100, 6000):
        store = InventoryStore(str(tmp_path / f"{number}.sqlite"))
        store.fill(guests(number), OPS)
        times = []
        for i in range(8):
            began = time.process_time()
            new = store.create("instances", of_entry(guests(6001 + i).instances[-1]), OPS)
            store.replace("networks", ID, of_entry(guests(1).networks[0]) | {"name": f"n{i}"}, None, OPS)
            store.delete("instances", new.id, new.version, OPS)
            times.append(time.process_time() - began)
        best[number] = min(times)
    assert best[6000] < 2 * best[100] + 0.01


def test_a_database_of_layout_1_is_read_and_gets_its_claims_with_the_first_change(full, path):
    claims = claims_in(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE claims")
        database.execute("PRAGMA user_version = 1")
    assert Reader(path).read() == SAMPLE
    store = InventoryStore(str(path))
    with pytest.raises(Conflict, match="this MAC address is already that of"):
        store.create("instances", port(mac=ADA.ports[0].mac), OPS)
    store.create("instances", port(), OPS)
    assert claims < claims_in(path)


def test_a_locked_database_is_waited_for_and_not_for_ever(full, path, monkeypatch):
    """Each wait is a sleep that gevent can turn into a switch; SQLite itself never waits."""
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.2)
    reader = Reader(path)
    seen = reader.look()
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="database is locked"):
            full.create("networks", {"id": ID}, OPS)
        assert reader.look() == seen
        free = threading.Timer(0.1, other.execute, ["COMMIT"])
        free.start()
        full.create("networks", {"id": ID}, OPS)
        free.join()
    assert reader.look() != seen
