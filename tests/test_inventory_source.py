"""Where filters have their inventory from: exactly one place, always the newest, as one whole."""

import logging
import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from webob import Request

from mdmw.errors import ConfigError, NotIdentified
from mdmw.filters.instance_resolve import make_resolver
from mdmw.inventory.file import load
from mdmw.inventory.source import inventory_of
from mdmw.inventory.store import Caller, InventoryStore
from mdmw.inventory.values import Inventory
from mdmw.node import settings as node_settings
from mdmw.records import INSTANCE, Scope, Source
from mdmw.responder.app import app_factory

ETC = Path(__file__).parents[1] / "etc" / "inventory.yaml"
SAMPLE = load(ETC)
BLUE, GREEN, RED = SAMPLE.networks
ADA, BEN, CARL = SAMPLE.instances
OPS = Caller("ops")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "inventory.sqlite"


@pytest.fixture
def store(path):
    store = InventoryStore(str(path))
    store.fill(SAMPLE, OPS)
    return store


def watched(path):
    return inventory_of(SimpleNamespace(place="test", inventory_db=str(path)))


def until(source, expected, seconds=5.0):
    """How long it took."""
    began = time.monotonic()
    while source.value() != expected:
        assert time.monotonic() < began + seconds
        time.sleep(0.01)
    return time.monotonic() - began


# --- one of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load_section",
    [
        lambda options: make_resolver({}, {"resolver": "inventory", **options}),
        lambda options: app_factory({}, **options),
    ],
    ids=["resolver", "responder"],
)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ["'inventory_file'", "or inventory_db"]),
        ({"inventory_file": str(ETC), "inventory_db": "/x"}, ["'inventory_db'", "one of them is allowed"]),
        ({"inventory_db": "/none/there"}, ["/none/there: there is no such file"]),
        ({"inventory_db": str(ETC)}, [f"{ETC}: file is not a database"]),
        ({"inventory_db": "/etc"}, ["/etc: is not a file"]),
    ],
)
def test_mistakes(load_section, options, said):
    """One line, at load."""
    with pytest.raises(ConfigError) as error:
        load_section(options)
    assert [words for words in said if words not in str(error.value)] == []
    assert "\n" not in str(error.value)


def test_node_mistakes():
    with pytest.raises(ConfigError, match="'inventory_db': inventory is given too; one of them is allowed"):
        node_settings.load({"inventory": str(ETC), "inventory_db": "/x"})


# --- the same as from the file ----------------------------------------------------------------------


def test_resolver_and_responder(store, path):
    resolver = make_resolver({}, {"resolver": "inventory", "inventory_db": str(path)})
    instance = resolver.resolve(Source("10.0.0.5", Scope("network", BLUE.id)))
    environ = Request.blank("/latest/meta-data/hostname", {INSTANCE: instance}).environ
    assert Request(environ).get_response(app_factory({}, inventory_db=str(path))).text == "blue-1.novalocal"


def test_node(store, path):
    from_file, from_db = (
        node_settings.load({option: str(where)})
        for option, where in (("inventory", ETC), ("inventory_db", path))
    )
    assert from_db.view() == from_file.view()
    assert from_db.options == from_file.options
    assert from_db.places == from_file.places
    seen = from_db.look()
    assert from_db.look() == seen
    store.delete("instances", BEN.id, None, OPS)
    assert from_db.look() != seen


# --- the newest -------------------------------------------------------------------------------------


def _change(path):
    store = InventoryStore(path)
    store.delete("instances", BEN.id, None, OPS)
    store.delete("networks", GREEN.id, None, OPS)


def test_a_change_of_another_process_counts_within_a_second(store, path):
    source = watched(path)
    process = multiprocessing.get_context("fork").Process(target=_change, args=(str(path),))
    process.start()
    process.join(60)
    assert until(source, Inventory((BLUE, RED), SAMPLE.routers, (ADA, CARL))) < 1.0


def test_many_changes_in_one_are_seen_as_one(store, path):
    """Never a network without its guests."""
    source = watched(path)
    source._interval = source._next_look = 0
    other = Inventory((GREEN,), (), (BEN,))
    seen = []
    for wanted in (other, SAMPLE, other) * 5:
        seen.append(source.value())
        store.fill(wanted, OPS, replace=True)
        seen.append(source.value())
    assert {len(one.networks) for one in seen} == {1, 3}
    assert {len(one.instances) - len(one.networks) for one in seen} == {0}


def test_between_looks_nothing_is_asked(store, path):
    source = watched(path)
    source._interval, source._next_look = 3600, time.monotonic() + 3600
    store.delete("instances", BEN.id, None, OPS)
    assert source.value() == SAMPLE


def test_the_last_good_content_stays(store, path, caplog):
    source = watched(path)
    source._interval = source._next_look = 0
    path.rename(path.with_name("away"))
    assert [source.value(), source.value()] == [SAMPLE, SAMPLE]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"{path}: there is no such file" in record.getMessage()
    path.with_name("away").rename(path)
    store.delete("instances", BEN.id, None, OPS)
    assert BEN not in source.value().instances


def test_another_database_at_the_same_place(store, path):
    """With as many changes as the first."""
    source = watched(path)
    source._interval = source._next_look = 0
    for file in path.parent.iterdir():
        file.unlink()
    other = Inventory(SAMPLE.networks, SAMPLE.routers, (CARL, ADA, BEN))
    InventoryStore(str(path)).fill(other, OPS)
    assert source.value() == other


def test_a_process_that_is_forked_reads_on(store, path):
    source = watched(path)
    source._interval = source._next_look = 0
    source.value()
    store.delete("instances", BEN.id, None, OPS)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: os._exit(len(source.value().instances)), args=()
    )
    process.start()
    process.join(60)
    assert process.exitcode == 2


# --- nobody is sent away for good by what is no longer so -----------------------------------------


@pytest.fixture
def a_moment_later(monkeypatch):
    """Too late to be the same moment, and too early for the next look."""
    began = time.monotonic()
    return lambda: monkeypatch.setattr("mdmw.reloading.time.monotonic", lambda: began + 0.2)


def test_a_guest_that_is_new_is_not_refused(tmp_path, a_moment_later):
    """R-6, spec 6: cloud-init gives up on its first 404. The responder behind it knows the guest too."""
    path = tmp_path / "inventory.yaml"
    text = ETC.read_text()
    here = f"mac: {BEN.ports[0].mac}\n        addresses: [{BEN.ports[0].addresses[0]}]"
    assert here in text
    other = text.replace(here, here.replace(".5]", ".6]"))
    path.write_text(other.replace(BEN.id, "aaaaaaaa-0000-4000-8000-000000000001"))
    resolver = make_resolver({}, {"resolver": "inventory", "inventory_file": str(path)})
    responder = app_factory({}, inventory_file=str(path), password_db=str(tmp_path / "passwords"))
    source = Source(BEN.ports[0].addresses[0], Scope("network", BEN.ports[0].network_id))
    with pytest.raises(NotIdentified):
        resolver.resolve(source)
    path.write_text(text)
    a_moment_later()
    request = Request.blank("/openstack/latest/meta_data.json")
    request.environ[INSTANCE] = resolver.resolve(source)
    assert request.get_response(responder).json["uuid"] == BEN.id
