"""Counters of each network and router, and the last requests: right, and bounded."""

from hypothesis import given
from hypothesis import strategies as st

from mdmw.observe.counters import BOUNDS, Tally
from mdmw.observe.journal import Journal
from mdmw.records import Instance, Scope, Source

BLUE, ROUTER = Scope("network", "blue"), Scope("router", "blue")  # ids of one kind say nothing of the other
ADA = Instance("ada", "project", "port")


def request(scope=BLUE, status=200, seconds=0.004, target="/latest/?token=secret", time=100.0):
    journal = Journal("GET", target)
    journal.source = scope and Source("10.0.0.5", scope)
    journal.instance = ADA if status == 200 else None
    journal.status, journal.seconds, journal.time = status, seconds, time
    return journal


def add(tally, journals):
    for journal in journals:
        tally.over(journal)


def everything(tally):
    return {tuple(one["scope"] or ()): one for one in tally.counters()["scopes"]}


def test_each_scope_is_counted_by_itself():
    tally = Tally()
    add(tally, [request(), request(ROUTER, 404), request(time=101.0), request(None, 400)])
    found = everything(tally)
    assert found["network", "blue"]["statuses"] == {"2xx": 2}
    assert found["network", "blue"]["count"] == 2
    assert (found["network", "blue"]["first"], found["network", "blue"]["last"]) == (100.0, 101.0)
    assert found["router", "blue"]["statuses"] == {"4xx": 1}
    assert found[()]["statuses"] == {"4xx": 1}


@given(st.lists(st.floats(0, 100)), st.lists(st.integers(0, 999)))
def test_nothing_is_lost(durations, statuses):
    tally = Tally()
    add(tally, [request(seconds=seconds) for seconds in durations])
    add(tally, [request(status=status, seconds=0.0) for status in statuses])
    for counters in everything(tally).values():
        assert counters["count"] == sum(counters["durations"]) == len(durations) + len(statuses)
        assert sum(counters["statuses"].values()) == counters["count"]
        assert counters["slowest"] == round(max([0.0, *durations]), 6)
        assert abs(counters["seconds"] - sum(durations)) < 1e-3


def test_a_duration_is_counted_below_its_bound():
    tally = Tally()
    add(tally, [request(seconds=seconds) for seconds in (0.0, 0.001, 0.0011, 30.0, 31.0)])
    durations = everything(tally)["network", "blue"]["durations"]
    assert len(durations) == len(BOUNDS) + 1
    assert (durations[0], durations[1], durations[-2], durations[-1]) == (2, 1, 1, 1)


def test_the_last_requests_newest_first_without_their_queries():
    tally = Tally()
    add(tally, [request(time=float(number)) for number in range(2000)])
    last = tally.recent(3, lambda _: True)
    assert [one["time"] for one in last] == [1999.0, 1998.0, 1997.0]
    assert last[0]["path"] == "/latest/"
    assert "secret" not in str(last)
    assert (last[0]["scope"], last[0]["instance"]) == (["network", "blue"], "ada")
    assert len(tally.recent(5000, lambda _: True)) == 1000


def test_a_guest_cannot_fill_the_memory_with_long_targets():
    tally = Tally()
    long = request(target="/" + "x" * 60_000)
    add(tally, [long])
    assert len(tally.recent(1, lambda _: True)[0]["path"]) == len(long.target) == 500


def test_a_child_has_counted_nothing():
    tally = Tally()
    add(tally, [request()])
    tally.forget()
    assert not everything(tally)
    assert not tally.recent(1, lambda _: True)
    add(tally, [request(status=404)])
    assert everything(tally)["network", "blue"]["statuses"] == {"4xx": 1}


def test_more_scopes_than_there_is_room_for_push_out_those_that_were_silent_for_longest():
    tally = Tally(most_scopes=100)
    add(tally, [request(Scope("network", str(number)), time=float(number)) for number in range(100)])
    add(tally, [request(Scope("network", "0"), time=1000.0), request(Scope("network", "new"), time=1001.0)])
    found = everything(tally)
    assert len(found) == 91
    assert ("network", "0") in found
    assert ("network", "new") in found
    assert ("network", "1") not in found
    for number in range(1000):
        add(tally, [request(Scope("network", f"further {number}"), time=2000.0 + number)])
    assert len(everything(tally)) <= 100
