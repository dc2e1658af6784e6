"""Counters of each network and router, and the last requests: right, and bounded."""

from hypothesis import given
from hypothesis import strategies as st

from mdmw.observe.counters import BOUNDS, ServedRequests
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


def everything(served):
    return {tuple(one["scope"] or ()): one for one in served.counters()["scopes"]}


def test_each_scope_is_counted_by_itself():
    served = ServedRequests()
    served.add([request(), request(ROUTER, 404), request(time=101.0), request(None, 400)])
    found = everything(served)
    assert found["network", "blue"]["statuses"] == {"2xx": 2}
    assert found["network", "blue"]["count"] == 2
    assert (found["network", "blue"]["first"], found["network", "blue"]["last"]) == (100.0, 101.0)
    assert found["router", "blue"]["statuses"] == {"4xx": 1}
    assert found[()]["statuses"] == {"4xx": 1}


@given(st.lists(st.floats(0, 100)), st.lists(st.integers(0, 999)))
def test_nothing_is_lost(durations, statuses):
    served = ServedRequests()
    served.add([request(seconds=seconds) for seconds in durations])
    served.add([request(status=status, seconds=0.0) for status in statuses])
    for counters in everything(served).values():
        assert counters["count"] == sum(counters["durations"]) == len(durations) + len(statuses)
        assert sum(counters["statuses"].values()) == counters["count"]
        assert counters["slowest"] == round(max([0.0, *durations]), 6)
        assert abs(counters["seconds"] - sum(durations)) < 1e-3


def test_a_duration_is_counted_below_its_bound():
    served = ServedRequests()
    served.add([request(seconds=seconds) for seconds in (0.0, 0.001, 0.0011, 30.0, 31.0)])
    durations = everything(served)["network", "blue"]["durations"]
    assert len(durations) == len(BOUNDS) + 1
    assert (durations[0], durations[1], durations[-2], durations[-1]) == (2, 1, 1, 1)


def test_the_last_requests_newest_first_without_their_queries():
    served = ServedRequests()
    served.add([request(time=float(number)) for number in range(2000)])
    last = served.recent(3, lambda _: True)
    assert [one["time"] for one in last] == [1999.0, 1998.0, 1997.0]
    assert last[0]["path"] == "/latest/"
    assert "secret" not in str(last)
    assert (last[0]["scope"], last[0]["instance"]) == (["network", "blue"], "ada")
    assert len(served.recent(5000, lambda _: True)) == 1000


def test_a_guest_cannot_fill_the_memory_with_long_targets():
    served = ServedRequests()
    long = request(target="/" + "x" * 60_000)
    served.add([long])
    assert len(served.recent(1, lambda _: True)[0]["path"]) == len(long.target) == 500


def test_more_scopes_than_there_is_room_for_push_out_those_that_were_silent_for_longest():
    served = ServedRequests(most_scopes=100)
    served.add([request(Scope("network", str(number)), time=float(number)) for number in range(100)])
    served.add([request(Scope("network", "0"), time=1000.0), request(Scope("network", "new"), time=1001.0)])
    found = everything(served)
    assert len(found) == 91
    assert ("network", "0") in found
    assert ("network", "new") in found
    assert ("network", "1") not in found
    for number in range(1000):
        served.add([request(Scope("network", f"further {number}"), time=2000.0 + number)])
    assert len(everything(served)) <= 100
