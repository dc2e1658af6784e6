"""The cache: what it remembers, for how long, and what it costs the back end (R-11 to R-14)."""

import logging
import threading

import pytest
from cached_cloud import BLUE, GREEN, ROUTER, Clock, Cloud, at_once, cache, mac, source

from mdmw.errors import BadRequest, Contradiction, NotIdentified, Unavailable
from mdmw.records import Instance, Source
from mdmw.resolvers.back_end import Dated, SharedQuestions
from mdmw.resolvers.caching import CacheLimits
from mdmw.resolvers.contract import Port


@pytest.fixture
def clock():
    return Clock()


def storm(guests, prefetching=True, seen=False):
    cloud = Cloud()
    expected = [cloud.put(number) for number in range(guests)]
    cached = cache(cloud, prefetching=prefetching)
    cloud.gate.clear()
    calls = at_once([lambda n=n: cached.resolve(source(n, seen=seen)) for n in range(guests)])
    assert cloud.inside.acquire(timeout=20)
    cloud.gate.set()
    assert calls.join() == expected
    return cloud


@pytest.mark.parametrize("seen", [False, True])
def test_r14_guests_that_boot_at_once_cost_one_query(seen):
    """R-14 and prefetch: 400 of one network, all of them asking while the query is under way."""
    assert storm(400, seen=seen).queries == {"all": 1}


def test_r14_equal_look_ups_are_one():
    """R-14 without prefetch: forty requests of one guest."""
    cloud, me = Cloud(), source(1)
    expected = cloud.put(1)
    cached = cache(cloud, prefetching=False)
    cloud.gate.clear()
    calls = at_once([lambda: cached.resolve(me)] * 40)
    assert cloud.inside.acquire(timeout=20)
    cloud.gate.set()
    assert calls.join() == [expected] * 40
    assert cloud.queries == {"one": 1}


def test_the_scope_is_part_of_what_is_remembered(clock):
    """The same address on two networks is two instances, and stays so."""
    cloud = Cloud()
    blue, green = cloud.put(1, BLUE, "blue"), cloud.put(2, GREEN, "green", "10.0.0.1")
    cached = cache(cloud, clock)
    for _ in range(3):
        assert cached.resolve(source(1, BLUE)) == blue
        assert cached.resolve(source(1, GREEN)) == green
    assert cloud.queries == {"all": 2}


def test_a_boot_behind_a_router_costs_two_queries(clock):
    """2.7: 28 requests of one guest; upstream's agent asks 56 times."""
    cloud = Cloud([Port("r", "blue", "", "router", "network:router_interface", "", (("10.0.0.254", "s"),))])
    expected = cloud.put(1)
    cached = cache(cloud, clock)
    for _ in range(28):
        assert cached.resolve(source(1, ROUTER)) == expected
        clock.pass_(0.3)
    assert cloud.queries == {"router": 1, "all": 1}


def test_a_router_without_interfaces_is_remembered_as_nobody(clock):
    """R-2."""
    cloud = Cloud()
    cached = cache(cloud, clock)
    for _ in range(3):
        with pytest.raises(NotIdentified, match="no interfaces"):
            cached.resolve(source(1, ROUTER))
    assert cloud.queries == {"router": 1}


# --- how long -----------------------------------------------------------------------------


@pytest.mark.parametrize("prefetching", [False, True])
def test_an_active_guest_is_looked_up_once_in_the_expiration_time(clock, prefetching):
    cloud = Cloud()
    cloud.put(1)
    cached = cache(cloud, clock, prefetching)
    for _ in range(20):
        cached.resolve(source(1))
        clock.pass_(0.5)
    assert cloud.queries.total() == 1
    clock.pass_(0.1)
    cached.resolve(source(1))
    assert cloud.queries.total() == 2


@pytest.mark.parametrize("prefetching", [False, True])
def test_an_address_that_was_silent_is_looked_up_anew(clock, prefetching):
    """The idle rule: another guest may have it by now."""
    cloud, me = Cloud(), source(1)
    old = cloud.put(1)
    cached = cache(cloud, clock, prefetching)
    assert cached.resolve(me) == old
    cloud.remove(1)
    new = cloud.put(2, device="new", address=me.address)
    clock.pass_(2.1)
    assert cached.resolve(me) == new
    assert cloud.queries.total() == 2


def test_a_guest_whose_mac_was_seen_may_be_silent(clock):
    cloud, me = Cloud(), source(1, seen=True)
    cloud.put(1)
    cached = cache(cloud, clock)
    for _ in range(2):
        cached.resolve(me)
        clock.pass_(9)
    assert cloud.queries == {"all": 1}


def test_first_contact_with_an_older_snapshot(clock):
    """A snapshot may be older than the guest: only its MAC shows that it means this one."""
    cloud = Cloud()
    expected = [cloud.put(n) for n in range(3)]
    cached = cache(cloud, clock)
    cached.resolve(source(0))
    clock.pass_(5)
    assert cached.resolve(source(1, seen=True)) == expected[1]
    assert cloud.queries == {"all": 1}
    assert cached.resolve(source(2)) == expected[2]
    assert cloud.queries == {"all": 2}


def test_a_newer_snapshot_replaces_the_answers_of_the_older(clock):
    cloud, me = Cloud(), source(1)
    cloud.put(1)
    cached = cache(cloud, clock)
    cached.resolve(me)
    cloud.remove(1)
    new = cloud.put(2, device="new", address=me.address)
    clock.pass_(0.5)
    cached.refresh(source(3))
    assert cached.resolve(me) == new
    assert cloud.queries == {"all": 2}


@pytest.mark.parametrize("prefetching", [False, True])
def test_nobody_is_remembered_for_a_second_at_most(clock, prefetching):
    cloud, me = Cloud(), source(1)
    cached = cache(cloud, clock, prefetching)
    for _ in range(3):
        with pytest.raises(NotIdentified):
            cached.resolve(me)
        clock.pass_(0.45)
    assert cloud.queries.total() == 1
    expected = cloud.put(1)
    assert cached.resolve(me) == expected


def test_r8_what_contradicts_itself_is_asked_of_nobody(clock):
    """R-8."""
    cloud = Cloud()
    cached = cache(cloud, clock)
    with pytest.raises(Contradiction):
        cached.resolve(Source("fe80::f816:3eff:fe00:1", BLUE, mac(2)))
    assert cloud.queries == {}


# --- what is not in the snapshot ------------------------------------------------------------


def test_a_new_port_is_asked_for_by_itself(clock):
    cloud = Cloud()
    cloud.put(1)
    cached = cache(cloud, clock)
    cached.resolve(source(1))
    new = cloud.put(2)
    clock.pass_(0.1)
    assert cached.resolve(source(2)) == new
    assert cached.resolve(source(2)) == new
    assert cloud.queries == {"all": 1, "one": 1}


def test_many_new_ports_are_fetched_together(clock):
    """One of them by itself, and then all: never one query for each."""
    cloud = Cloud()
    cached = cache(cloud, clock)
    with pytest.raises(NotIdentified):
        cached.resolve(source(999))
    clock.pass_(0.1)
    expected = [cloud.put(n) for n in range(100)]
    cloud.gate.clear()
    first = at_once([lambda: cached.resolve(source(0))])
    for _ in range(2):  # the snapshot before, and the question for the first
        assert cloud.inside.acquire(timeout=20)
    others = at_once([lambda n=n: cached.resolve(source(n)) for n in range(1, 100)])
    assert cloud.inside.acquire(timeout=20)
    cloud.gate.set()
    assert first.join() + others.join() == expected
    assert cloud.queries == {"all": 2, "one": 1}


def test_an_unknown_address_costs_no_more_than_the_snapshot(clock):
    """It was fetched for this very request, so that it is not there is the answer."""
    cloud = Cloud()
    cached = cache(cloud, clock)
    with pytest.raises(NotIdentified):
        cached.resolve(source(1))
    assert cloud.queries == {"all": 1}


def test_a_network_with_too_many_ports_is_asked_one_by_one(clock):
    cloud = Cloud()
    expected = [cloud.put(n) for n in range(3)]
    cloud.too_many = True
    cached = cache(cloud, clock)
    assert [cached.resolve(source(n)) for n in range(3)] == expected
    assert cloud.queries == {"all": 1, "one": 3}
    clock.pass_(9)
    cached.resolve(source(0))
    assert cloud.queries == {"all": 1, "one": 4}
    clock.pass_(2)
    cached.resolve(source(1))
    assert cloud.queries == {"all": 2, "one": 5}


# --- another guest with the same address --------------------------------------------------------


def test_reuse_with_a_mac_that_was_seen(clock):
    """R-11: never the old one's answer, not even for an instant, and without any help of Nova."""
    cloud = Cloud()
    old = cloud.put(1)
    cached = cache(cloud, clock)
    mine = source(1, seen=True)
    assert cached.resolve(mine) == old
    cloud.remove(1)
    new = cloud.put(2, device="new", address=mine.address)
    assert cached.resolve(Source(mine.address, BLUE, mac(2))) == new
    assert cloud.queries == {"all": 1, "one": 1}


def test_r11_again_is_never_older_than_the_call(clock):
    cloud, me = Cloud(), source(1)
    cloud.put(1)
    cached = cache(cloud, clock)
    cached.resolve(me)
    cloud.remove(1)
    new = cloud.put(2, device="new", address=me.address)
    clock.pass_(0.001)
    assert cached.refresh(me).instance == new
    assert cached.resolve(me) == new
    assert cached.resolve(me, fresh=True) == new


def test_r11_all_who_ask_again_share_one_query(clock):
    """Who came before the asking began shares it; who came later shares the next."""
    cloud = Cloud()
    expected = [cloud.put(n) for n in range(60)]
    cached = cache(cloud, clock)
    cached.resolve(source(0))
    clock.pass_(0.1)
    cloud.gate.clear()
    cloud.inside.acquire()
    first = at_once([lambda n=n: cached.refresh(source(n)).instance for n in range(20)])
    assert cloud.inside.acquire(timeout=20)
    clock.pass_(0.1)
    second = at_once([lambda n=n: cached.refresh(source(n)).instance for n in range(20, 60)])
    cloud.gate.set()
    assert first.join() + second.join() == expected
    assert cloud.queries == {"all": 3}


def large_network(clock):
    cloud = Cloud()
    expected = [cloud.put(number) for number in range(3000)]
    cached = cache(cloud, clock)
    cached.resolve(source(0))
    return cloud, cached, expected


def test_r11_a_large_network_is_not_fetched_again_for_one(clock):
    cloud, cached, expected = large_network(clock)
    clock.pass_(0.1)
    assert cached.refresh(source(1)).instance == expected[1]
    assert cloud.queries == {"all": 1, "one": 1}


def test_a_large_network_is_fetched_again_for_many(clock):
    """Guests that ask now and then are asked for one by one, those of a storm together."""
    cloud, cached, expected = large_network(clock)
    for number in range(3):
        clock.pass_(3)
        assert cached.resolve(source(number)) == expected[number]
    assert cloud.queries == {"all": 1, "one": 3}
    clock.pass_(3)
    cloud.gate.clear()
    alone = at_once([lambda n=n: cached.resolve(source(n)) for n in range(5)])
    while cloud.queries["one"] < 8:
        assert cloud.inside.acquire(timeout=20)
    others = at_once([lambda n=n: cached.resolve(source(n)) for n in range(5, 105)])
    while cloud.queries["all"] < 2:
        assert cloud.inside.acquire(timeout=20)
    cloud.gate.set()
    assert alone.join() + others.join() == expected[:105]
    assert cloud.queries == {"all": 2, "one": 8}


# --- faults -------------------------------------------------------------------------------------


def test_a_failure_is_shared_by_all_who_wait():
    cloud = Cloud()
    cached = cache(cloud)
    cloud.down = True
    cloud.gate.clear()
    calls = at_once([lambda n=n: cached.resolve(source(n)) for n in range(50)])
    assert cloud.inside.acquire(timeout=20)
    cloud.gate.set()
    errors = calls.join()
    assert {type(error) for error in errors} == {Unavailable}
    assert {error.retry_after for error in errors} == {3}
    assert cloud.queries == {"all": 1}


def test_a_dead_back_end_is_not_hammered(clock):
    """After a failure nobody of that scope asks for half a second; another scope may."""
    cloud = Cloud()
    cloud.put(1)
    cached = cache(cloud, clock)
    cloud.down = True
    for number in range(10):
        with pytest.raises(Unavailable, match="Neutron is down"):
            cached.resolve(source(number))
    assert cloud.queries == {"all": 1}
    with pytest.raises(Unavailable):
        cached.resolve(source(1, GREEN))
    assert cloud.queries == {"all": 2}
    cloud.down = False
    clock.pass_(0.6)
    cached.resolve(source(1))
    assert cloud.queries == {"all": 3}


@pytest.mark.parametrize("prefetching", [False, True])
def test_r13_an_expired_answer_while_the_back_end_is_down(clock, caplog, prefetching):
    """R-13: for a while, for who may have it, and said once a minute."""
    cloud, me = Cloud(), source(1)
    expected = cloud.put(1)
    cached = cache(cloud, clock, prefetching)
    cached.resolve(me)
    cloud.down = True
    clock.pass_(39)
    with pytest.raises(Unavailable):
        cached.find(me)
    with caplog.at_level(logging.WARNING, "mdmw"):
        for _ in range(10):
            assert cached.find(me, stale=True).instance == expected
    assert len(caplog.records) == 1
    assert "network blue" in caplog.text
    assert "Neutron is down" in caplog.text
    clock.pass_(2)
    with pytest.raises(Unavailable):
        cached.find(me, stale=True)


def test_r13_an_expired_snapshot_serves_who_is_in_it(clock):
    """Also a guest that did not ask before, but never one with another MAC."""
    cloud = Cloud()
    expected = [cloud.put(n) for n in range(2)]
    cached = cache(cloud, clock)
    cached.resolve(source(0))
    cloud.down = True
    clock.pass_(20)
    assert cached.find(source(1), stale=True).instance == expected[1]
    assert cached.find(source(1, seen=True), stale=True).instance == expected[1]
    with pytest.raises(Unavailable):
        cached.find(Source(source(1).address, BLUE, mac(7)), stale=True)
    with pytest.raises(Unavailable):
        cached.find(source(2), stale=True)


def test_r13_nobody_is_never_stale(clock):
    """1.6: a 404 is final for a guest, so it is never given on old knowledge."""
    cloud = Cloud()
    cached = cache(cloud, clock)
    with pytest.raises(NotIdentified):
        cached.resolve(source(1))
    cloud.down = True
    clock.pass_(1.1)
    with pytest.raises(Unavailable):
        cached.find(source(1), stale=True)


def test_who_waits_too_long_is_told_so():
    questions, landing = SharedQuestions(patience=0.05), threading.Event()
    inside = threading.Event()

    def ask():
        inside.set()
        assert landing.wait(20)
        return Dated(1, 1.0)

    slow = at_once([lambda: questions.share("key", 0.0, ask).value])
    assert inside.wait(20)
    with pytest.raises(Unavailable, match="asks the same for too long"):
        questions.share("key", 0.0, ask)
    landing.set()
    assert slow.join() == [1]


def test_after_a_defect_each_asks_for_itself():
    """Nobody waits for a flight that broke, and nobody takes its place for good."""
    questions, landing, inside = SharedQuestions(), threading.Event(), threading.Event()

    def broken():
        inside.set()
        assert landing.wait(20)
        raise BadRequest("a defect")

    first = at_once([lambda: questions.share("key", 0.0, broken)])
    assert inside.wait(20)
    second = at_once([lambda: questions.share("key", 0.0, lambda: Dated(2, 2.0)).value])
    landing.set()
    assert [type(error) for error in first.join()] == [BadRequest]
    assert second.join() == [2]


# --- bounds ---------------------------------------------------------------------------------------


def test_r14_the_answers_used_last_are_kept(clock):
    """R-14: no more than `entries`; who asks often stays."""
    cloud = Cloud()
    guests = 300
    for number in range(guests):
        cloud.put(number)
    cached = cache(cloud, clock, prefetching=False, limits=CacheLimits(entries=100))
    for number in range(guests):
        clock.pass_(0.01)
        cached.resolve(source(number))
        cached.resolve(source(0))
        assert len(cached._entries._entries) <= 100
    assert cloud.queries == {"one": guests}
    cached.resolve(source(1))
    assert cloud.queries == {"one": guests + 1}


def test_snapshots_that_nobody_uses_go(clock):
    cloud = Cloud()
    cached = cache(cloud, clock)
    for _ in range(3):
        with pytest.raises(NotIdentified):
            cached.resolve(source(1, BLUE))
        clock.pass_(41)
        with pytest.raises(NotIdentified):
            cached.resolve(source(1, GREEN))
        assert cached._snapshots.known(BLUE) is None
        assert cached._snapshots.known(GREEN) is not None
        clock.pass_(41)


def test_snapshots_are_bounded_by_their_ports(clock, monkeypatch):
    monkeypatch.setattr("mdmw.resolvers.snapshots._MOST_PORTS", 150)
    cloud = Cloud()
    for number in range(100):
        cloud.put(number, BLUE)
        cloud.put(number + 1000, GREEN, address=source(number).address)
    cached = cache(cloud, clock)
    cached.resolve(source(1, BLUE))
    cached.resolve(source(1, GREEN))
    assert cached._snapshots.known(BLUE) is None
    assert cached.resolve(source(2, GREEN)) == Instance("instance-1002", "project", "port-1002")
    assert cloud.queries == {"all": 2}
