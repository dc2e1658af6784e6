"""What processes share: through memcached, and through the directory of their group."""

import contextlib
import getpass
import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cached_cloud import BLUE, GREEN, ROUTER, Clock, Cloud, at_once, cache, source
from hypothesis import given
from hypothesis import strategies as st
from peers import response, silent
from pymemcache import Client

from mdmw.errors import NotIdentified, Unavailable
from mdmw.records import Instance
from mdmw.resolvers.caching import CacheLimits, Caching
from mdmw.resolvers.contract import Port, Snapshot
from mdmw.resolvers.memcached import MemcachedStore
from mdmw.resolvers.neutron import PortResolver
from mdmw.resolvers.shared import DirectoryStore, ProcessGroup, SharedCache
from mdmw.resolvers.shared import _name as name_of

KEY = ("snapshot", "network", "blue")
PATIENCE = 20.0


@pytest.fixture(scope="module")
def memcached(tmp_path_factory):
    """A real memcached on a unix socket."""
    program = shutil.which("memcached")
    if program is None:
        pytest.skip("memcached is not installed")
    path = str(tmp_path_factory.mktemp("memcached") / "socket")
    process = subprocess.Popen([program, "-s", path, "-m", "16", "-u", getpass.getuser()])
    try:
        deadline = time.monotonic() + PATIENCE
        while not is_listening(path):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield path
    finally:
        process.terminate()
        process.wait(PATIENCE)


def is_listening(path):
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


@pytest.fixture
def client(memcached):
    with contextlib.closing(Client(memcached, timeout=PATIENCE)) as client:
        client.flush_all(noreply=False)
        yield client


@pytest.fixture
def agent():
    """Makes an agent on a host of its own, whose clock may be wrong; its connections end with the test."""
    made = []

    def make(path, cloud, prefetching=True, ahead=0.0):
        shared = SharedCache(MemcachedStore([path], 0.5, 41), lambda: time.time() + ahead, 0.5)
        made.append(shared)
        return cache(cloud, time.monotonic, prefetching, shared=shared)

    yield make
    for shared in made:
        shared._store.close()


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


# --- memcached ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetching", [False, True])
def test_agents_share_answers(agent, memcached, client, prefetching):
    """What one agent asked, another need not ask."""
    cloud, me = Cloud(), source(1)
    expected = cloud.put(1)
    for _ in range(2):
        assert agent(memcached, cloud, prefetching).resolve(me) == expected
    assert cloud.queries.total() == 1


def test_too_many_ports_is_shared_too(agent, memcached, client):
    """It took ten pages to find out."""
    cloud, me = Cloud(), source(1)
    expected = cloud.put(1)
    cloud.too_many = True
    for _ in range(2):
        assert agent(memcached, cloud).resolve(me) == expected
    assert cloud.queries == {"all": 1, "one": 1}


def test_keys_carry_the_scope(agent, memcached, client):
    cloud = Cloud()
    blue, green = cloud.put(1, BLUE, "blue"), cloud.put(2, GREEN, "green", source(1).address)
    for prefetching in (False, True):
        for _ in range(2):
            cached = agent(memcached, cloud, prefetching)
            assert cached.resolve(source(1, BLUE)) == blue
            assert cached.resolve(source(1, GREEN)) == green


def test_r11_again_asks_past_memcached(agent, memcached, client):
    """R-11: both levels, also when another agent's clock is ahead by a moment."""
    cloud, me = Cloud(), source(1)
    cloud.put(1)
    for prefetching in (False, True):
        agent(memcached, cloud, prefetching, ahead=0.3).resolve(me)
        cached = agent(memcached, cloud, prefetching)
        cached.resolve(me)
        before = cloud.queries.total()
        cached.refresh(me)
        assert cloud.queries.total() == before + 1


@pytest.mark.parametrize("prefetching", [False, True])
@pytest.mark.parametrize("scope", [None, BLUE])
def test_a_purge_is_for_all_agents(agent, memcached, client, prefetching, scope):
    """Also when their clocks differ by a moment."""
    cloud, me = Cloud(), source(1)
    cloud.put(1)
    agent(memcached, cloud, prefetching, ahead=0.3).resolve(me)
    assert agent(memcached, cloud, prefetching).purge(scope) == (0, True)
    cloud.remove(1)
    expected = cloud.put(1, device="another")
    assert agent(memcached, cloud, prefetching).resolve(me) == expected


def test_a_purge_without_memcached_says_so(agent, peers):
    assert agent(peers.absent().path, Cloud()).purge(None) == (0, False)


def test_an_entry_from_the_future_is_ignored(agent, memcached, client):
    """A host whose clock is wrong by more than the margin could make old answers look young."""
    cloud, me = Cloud(), source(1)
    expected = cloud.put(1)
    agent(memcached, cloud, ahead=60).resolve(me)
    assert agent(memcached, cloud).resolve(me) == expected
    assert cloud.queries == {"all": 2}


def test_an_entry_that_is_old_is_not_taken(agent, memcached, client):
    cloud, me = Cloud(), source(1)
    cloud.put(1)
    agent(memcached, cloud, ahead=-1.6).resolve(me)
    agent(memcached, cloud).resolve(me)
    assert cloud.queries == {"all": 2}


@pytest.mark.parametrize("number", [500, 10_000])
def test_a_snapshot_of_many_ports_is_shared(agent, memcached, client, caplog, number):
    """As many as `prefetch_max_ports`, with ids as Neutron has them: memcached takes a million bytes."""
    cloud = crowd(number)
    for _ in range(2):
        assert agent(memcached, cloud).resolve(source(77)).id == instance_of(77)
    assert cloud.queries == {"all": 1}
    assert caplog.records == []


def test_a_snapshot_that_does_not_fit_is_not_shared(agent, memcached, client, caplog, monkeypatch):
    monkeypatch.setattr(MemcachedStore, "most_bytes", 10_000)
    cloud = crowd(500)
    for _ in range(2):
        cached = agent(memcached, cloud)
        assert cached.resolve(source(77)).id == instance_of(77)
        assert not cached._shared.takes(KEY)
        assert cached._shared.takes(("snapshot", "network", "green"))
    assert cloud.queries == {"all": 2}
    assert caplog.records == []


def instance_of(number):
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


def crowd(number):
    """A network of many guests, with ids that cannot be compressed much."""
    cloud = Cloud()
    for n in range(number):
        cloud.put(n, device=instance_of(n))
    ports = [replace(port, id=instance_of(f"port {port.id}")) for port in cloud.ports.values()]
    cloud.ports = {port.id: port for port in ports}
    return cloud


def test_nothing_from_memcached_is_executed(agent, memcached, client, tmp_path):
    """A pickle that would run a command, under the flag by which pymemcache knows pickles."""
    cloud, me = Cloud(), source(1)
    expected = cloud.put(1)
    trap = tmp_path / "executed"
    pickle.loads(pickle.dumps(Trap(tmp_path / "the trap works")))
    assert (tmp_path / "the trap works").exists()
    overwrite(client, pickle.dumps(Trap(trap)), agent(memcached, cloud), me)
    assert agent(memcached, cloud).resolve(me) == expected
    assert not trap.exists()


GARBAGE = [
    b"",
    b"garbage",
    b"|",
    b"{}|",
    b'{"ct": 1, "v": 1}|null',
    b'{"ct": 1, "v": 1}|[]',
    b'{"ct": 1, "v": 1}|{"key": ["snapshot", "network", "blue"]}',
    b"\xff\xfe|\xff",
    b"[" * 100_000,
    b"z",
    b"zz",
    b"z" + zlib.compress(b"{}")[:-1],
    b"z" + zlib.compress(b"[" * 100_000),
    b'{"ct": 1, "v": 1}|' + b"[" * 100_000,
]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:30]))
def test_garbage_is_like_nothing(agent, memcached, client, caplog, data):
    """Never an error for the guest; said once a minute."""
    cloud, me = Cloud(), source(1)
    expected = cloud.put(1)
    overwrite(client, data, agent(memcached, cloud), me)
    cached = agent(memcached, cloud)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cached._shared.snapshot(KEY, 0.0) is None
        assert cached.resolve(me) == expected
    assert len(caplog.records) == 1
    assert "cannot be understood" in caplog.text
    assert cloud.queries == {"all": 2}


def overwrite(client, data, cached, me):
    """Put `data` where a cache left its answer about `me`."""
    cached.resolve(me)
    key = name_of(KEY)
    assert client.get(key) is not None
    client.set(key, data, flags=1, noreply=False)


def test_a_snapshot_of_another_network_is_not_taken(agent, memcached, client):
    """An entry says what it is about, whatever key it is found under."""
    cloud = Cloud()
    cloud.put(1, GREEN)
    cached = agent(memcached, cloud)
    cached.resolve(source(1, GREEN))
    entry = client.get(name_of(("snapshot", "network", "green")))
    client.set(name_of(KEY), entry, noreply=False)
    with pytest.raises(NotIdentified):
        agent(memcached, cloud).resolve(source(1, BLUE))


def says(data):
    """A peer that answers every piece with `data`."""

    def script(conversation):
        while conversation.sock.recv(65536):
            conversation.send(data)

    return script


def hangs_up(conversation):
    conversation.sock.recv(65536)


@pytest.mark.parametrize(
    "script",
    [hangs_up, silent, says(b"\r\n"), says(response()), says(b"VALUE x\r\n"), says(b"SERVER_ERROR x\r\n")],
)
def test_a_memcached_that_misbehaves(agent, peers, caplog, script):
    """Down, silent, or something else altogether: as if there were none, and said once."""
    peer = peers.unix(script)
    cloud = Cloud()
    expected = [cloud.put(n) for n in range(3)]
    cached = agent(peer.address.path, cloud)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            assert cached.resolve(source(number, BLUE)) == expected[number]
            assert cached.refresh(source(number, BLUE)).instance == expected[number]
    assert time.monotonic() - began < 3
    assert 1 <= len(caplog.records) <= 2


def test_memcached_comes_back(tmp_path, memcached, client, agent):
    """After a rest of a few seconds it is used again."""
    clock = Clock()
    path = tmp_path / "socket"
    shared = agent(str(path), Cloud())._shared
    shared._own_clock, shared._margin = clock, 0.0
    shared.save_instance(("one",), Instance("i", "p", "port"), clock())
    path.symlink_to(memcached)
    shared.save_instance(("one",), Instance("i", "p", "port"), clock())
    assert shared.instance(("one",), 0.0) is None
    clock.pass_(6)
    shared.save_instance(("one",), Instance("i", "p", "port"), clock())
    assert shared.instance(("one",), 0.0).value == Instance("i", "p", "port")


# --- entries --------------------------------------------------------------------------------------

texts = st.text(max_size=8)
ports = st.builds(
    Port, texts, texts, texts, texts, texts, texts, st.lists(st.tuples(texts, texts), max_size=2).map(tuple)
)


@given(st.lists(ports, max_size=4), st.none() | st.frozensets(texts, max_size=3), st.floats(0, 9))
def test_a_snapshot_is_read_as_it_was_written(tmp_path_factory, made, subnets, age):
    clock = Clock()
    path = tmp_path_factory.mktemp("entries")
    shared = SharedCache(DirectoryStore(path, 40), clock, 0.0, clock)
    as_of = clock() - age
    shared.save_snapshot(KEY, Snapshot(made, subnets), as_of)
    fact = shared.snapshot(KEY, as_of - 0.001)
    assert (fact.value.ports, fact.value.subnets) == (tuple(made), subnets)
    assert fact.as_of == pytest.approx(as_of, abs=0.001)
    assert shared.snapshot(KEY, as_of + 0.001) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)


port_values = st.lists(st.lists(json_values, min_size=7, max_size=7))
entries = st.fixed_dictionaries(
    {"key": st.just(list(KEY)) | json_values, "as_of": st.floats() | json_values},
    optional={"ports": json_values | port_values, "subnets": json_values, "instance": json_values},
)


@given(entries | json_values)
def test_any_json_is_an_entry_or_nothing(tmp_path_factory, entry):
    shared = SharedCache(DirectoryStore(tmp_path_factory.mktemp("entries"), 40))
    shared._store.set(name_of(KEY), json.dumps(entry).encode())
    for fact in (shared.snapshot(KEY, 0.0), shared.instance(KEY, 0.0)):
        assert fact is None or isinstance(fact.value, Snapshot | Instance | None)
        if fact is not None and isinstance(fact.value, Snapshot):
            assert all(isinstance(port.id, str) for port in fact.value.ports)


# --- processes of one group ------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path):
    path = tmp_path / "group"
    path.mkdir(0o700)
    return path


def test_processes_of_a_group_cost_one_query(tmp_path, group):
    """R-14: four processes, fifty threads each, four hundred guests: one query."""
    log = tmp_path / "queries"
    log.touch()
    worker = str(Path(__file__).with_name("shared_worker.py"))
    command = [sys.executable, worker, str(group), str(log), "50", "400"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, env=os.environ | path, **pipes)) for _ in range(4)
        ]
        stack.callback(lambda: [process.kill() for process in processes])
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.stdout.readline() for process in processes] == ["400\n"] * 4
    assert log.read_text() == "all\n"


class Member:
    """A process of the group, as far as the cache can tell."""

    def __init__(self, path, cloud, clock, patience=PATIENCE):
        shared = SharedCache(DirectoryStore(path, 40), clock, 0.0, clock)
        self.cache = Caching(
            PortResolver(cloud), CacheLimits(idle=2.0), shared, ProcessGroup(path, patience), clock
        )


def test_r11_members_of_a_group_share_what_was_asked_again(group):
    """R-11: an answer that began before the call does not count, whoever got it."""
    cloud, clock, me = Cloud(), Clock(), source(1)
    cloud.put(1)
    one, other = Member(group, cloud, clock), Member(group, cloud, clock)
    one.cache.resolve(me)
    assert other.cache.resolve(me).id == "instance-1"
    assert cloud.queries == {"all": 1}
    cloud.remove(1)
    new = cloud.put(2, device="new", address=me.address)
    assert other.cache.refresh(me).instance == new
    assert cloud.queries == {"all": 2}
    assert one.cache.refresh(me).instance == new
    assert cloud.queries == {"all": 3}


def test_a_member_does_not_wait_for_ever(group):
    cloud, clock = Cloud(), Clock()
    cloud.put(1)
    slow, hasty = Member(group, cloud, clock), Member(group, cloud, clock, patience=0.05)
    cloud.gate.clear()
    calls = at_once([lambda: slow.cache.resolve(source(1))])
    assert cloud.inside.acquire(timeout=20)
    with pytest.raises(Unavailable, match="another process"):
        hasty.cache.resolve(source(1))
    cloud.gate.set()
    assert calls.join()[0].id == "instance-1"


def test_a_group_whose_directory_is_gone(group, caplog):
    """The guest does not notice."""
    cloud, clock = Cloud(), Clock()
    expected = cloud.put(1)
    member = Member(group, cloud, clock)
    group.rmdir()
    assert member.cache.resolve(source(1)) == expected
    assert "other processes" in caplog.text


def test_files_of_a_group_are_private_and_go(group, monkeypatch):
    """Within twice the time for which they count, whatever their number."""
    clock = Clock()
    shared = SharedCache(DirectoryStore(group, 40), clock, 0.0, clock)
    for number in range(700):
        shared.save_snapshot(("snapshot", "network", str(number)), Snapshot(()), clock())
    files = [path for path in group.rglob("*") if path.is_file()]
    assert len(files) == 700
    assert [path for path in group.rglob("*") if path.stat().st_mode & 0o077] == []
    began = time.time()
    for step in range(300):
        now = began + 41 + step * 0.16
        monkeypatch.setattr("mdmw.resolvers.shared.time.time", partial(float, now))
        shared.save_snapshot(KEY, Snapshot(()), clock())
    assert [path for path in files if path.exists()] == []


def test_the_time_to_save_does_not_grow_with_the_files(group):
    """Processor time, the best of several times."""
    best = {}
    for files in (10, 5000):
        store = DirectoryStore(group, 40)
        for number in range(files):
            store.set(f"name-{number}", b"{}")
        times = []
        for number in range(20):
            began = time.process_time()
            store.set(f"another-{number}", b"{}")
            times.append(time.process_time() - began)
        best[files] = min(times)
    assert best[5000] < 3 * best[10] + 0.001


@pytest.mark.parametrize("number", [400, 5_000, 12_000])
def test_members_of_a_group_share_snapshots_of_any_size(group, number):
    cloud, clock = crowd(number), Clock()
    for _ in range(3):
        assert Member(group, cloud, clock).cache.resolve(source(7)).id == instance_of(7)
    assert cloud.queries == {"all": 1}


def test_members_of_a_group_do_not_wait_for_what_cannot_be_shared(group, monkeypatch):
    """Two ask at the same time, since each would have to ask for itself anyway."""
    monkeypatch.setattr(DirectoryStore, "most_bytes", 500)
    cloud, clock = crowd(50), Clock()
    assert Member(group, cloud, clock).cache.resolve(source(7)).id == instance_of(7)
    assert cloud.inside.acquire(timeout=PATIENCE)
    cloud.gate.clear()
    calls = at_once([partial(Member(group, cloud, clock).cache.resolve, source(n)) for n in range(3)])
    for _ in range(3):
        assert cloud.inside.acquire(timeout=PATIENCE)
    cloud.gate.set()
    assert [found.id for found in calls.join()] == [instance_of(n) for n in range(3)]


def test_members_that_waited_for_what_cannot_be_shared_go_on_together(group, monkeypatch):
    """They learn it when the first of them has asked."""
    monkeypatch.setattr(DirectoryStore, "most_bytes", 500)
    cloud, clock = crowd(50), Clock()
    first, *others = (Member(group, cloud, clock) for _ in range(4))
    turns = threading.Event()
    cloud.gate = turns
    calls = at_once([lambda: first.cache.resolve(source(0))])
    assert cloud.inside.acquire(timeout=PATIENCE)
    waiting = at_once([partial(member.cache.resolve, source(1)) for member in others])
    cloud.gate = threading.Event()  # for those who come now
    turns.set()
    calls.join()
    for _ in others:
        assert cloud.inside.acquire(timeout=PATIENCE)
    cloud.gate.set()
    assert {found.id for found in waiting.join()} == {instance_of(1)}


def test_a_lock_of_the_group_ends_although_a_child_was_forked_inside(group):
    """The child has the file open too: closing it in the parent does not release the lock."""
    reading, writing = os.pipe()
    with ProcessGroup(group).exclusive(KEY):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    try:
        with ProcessGroup(group, patience=0.1).exclusive(KEY):
            pass
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


def test_routers_are_shared_with_their_subnets(group):
    """R-5 decides in every process alike."""
    interface = Port("r", "blue", "", "router", "network:router_interface", "", (("10.0.0.254", "subnet"),))
    cloud, clock = Cloud([interface]), Clock()
    expected = cloud.put(1)
    for _ in range(2):
        member = Member(group, cloud, clock)
        assert member.cache.resolve(source(1, ROUTER)) == expected
        assert member.cache._snapshots.known(ROUTER).value.subnets == {"subnet"}
    assert cloud.queries == {"router": 1, "all": 1}
