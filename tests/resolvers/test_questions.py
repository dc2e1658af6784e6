"""What a process says of its resolver and its cache, and what a purge does (R-11, R-12)."""

import time

import pytest
from cached_cloud import GREEN, PROJECT, Clock, Cloud, cache, mac

from mdmw.errors import BadRequest, NotFound, Unavailable
from mdmw.observe.introspection import Check
from mdmw.resolvers.neutron import PortResolver
from mdmw.resolvers.questions import Questions
from mdmw.resolvers.shared import DirectoryStore, ProcessGroup, SharedCache

ONE = ("network", "blue", "10.0.0.1")


@pytest.fixture
def cloud():
    made = Cloud()
    made.put(1)
    made.put(2, GREEN)
    return made


@pytest.fixture(params=[True, False], ids=["prefetching", "one by one"])
def questions(request, cloud):
    return Questions(cache(cloud, Clock(), request.param))


def test_who_is_this_and_how_was_that_found(questions, cloud):
    first, second = questions.resolve(*ONE), questions.resolve(*ONE)
    assert first["instance"] == {"id": "instance-1", "project_id": PROJECT, "port_id": "port-1"}
    assert (first["cache"], first["calls"], first["reason"]) == ("miss", 1, "")
    assert (second["cache"], second["calls"]) == ("hit", 0)
    assert second["instance"] == first["instance"]
    assert questions.resolve(*ONE, fresh=True)["calls"] == 1
    assert first["resolver"] in ("PortResolver", "AlonePorts")


def test_nobody_is_an_answer_with_a_reason(questions):
    found = questions.resolve("network", "blue", "10.0.0.77")
    assert found["instance"] is None
    assert "10.0.0.77" in found["reason"]


def test_a_back_end_that_is_away_is_no_answer(questions, cloud):
    cloud.down = True
    with pytest.raises(Unavailable):
        questions.resolve(*ONE)


def test_what_is_remembered_is_shown_and_nobody_is_asked(questions, cloud):
    assert questions.cache(*ONE) == {"answers": [], "snapshot": None}
    questions.resolve(*ONE)
    questions.resolve(*ONE, mac=mac(1))
    asked = sum(cloud.queries.values())
    found = questions.cache(*ONE)
    assert sum(cloud.queries.values()) == asked
    assert [(one["mac"], one["instance"]["id"]) for one in found["answers"]] == [
        (None, "instance-1"),
        (mac(1), "instance-1"),
    ]
    assert 0 <= found["answers"][0]["age"] < 1 < found["answers"][0]["expires_in"] <= 10
    assert len(questions.cache(*ONE, mac=mac(1))["answers"]) == 1
    if found["snapshot"]:
        assert found["snapshot"]["ports"] == 1
        assert found["snapshot"]["instance"]["id"] == "instance-1"
        assert "10.0.0.9" in questions.cache("network", "blue", "10.0.0.9")["snapshot"]["reason"]


def test_a_snapshot_that_was_too_large_says_so(cloud):
    cloud.too_many = True
    questions = Questions(cache(cloud, Clock()))
    questions.resolve(*ONE)
    assert questions.cache(*ONE)["snapshot"]["ports"] is None


def test_without_a_cache_there_is_nothing_to_look_at(cloud):
    questions = Questions(PortResolver(cloud))
    with pytest.raises(NotFound, match="has no cache"):
        questions.cache(*ONE)
    assert questions.purge() == {"dropped": 0, "shared": False}
    assert questions.resolve(*ONE)["cache"] == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("subnet", "blue", "10.0.0.1"), "network or router"),
        (("network", 5, "10.0.0.1"), "id"),
        (("network", "blue", "10.0.0"), "not an IP address"),
        (("network", "blue", 5), "texts"),
        (("network", "blue", "10.0.0.1", "fa:16"), "MAC"),
        (("network", "blue", "10.0.0.1", 5), "texts"),
    ],
)
def test_questions_that_are_none(questions, arguments, said):
    with pytest.raises(BadRequest, match=said):
        questions.resolve(*arguments)


# --- purge ------------------------------------------------------------------------------


def test_a_purge_of_one_network_leaves_the_others(questions, cloud):
    two = ("network", "green", "10.0.0.2")
    questions.resolve(*ONE)
    questions.resolve(*two)
    cloud.remove(1)
    cloud.put(1, device="another")
    assert questions.resolve(*ONE)["instance"]["id"] == "instance-1"
    assert questions.purge("network", "blue")["dropped"] >= 1
    assert questions.cache(*ONE) == {"answers": [], "snapshot": None}
    assert questions.resolve(*ONE)["instance"]["id"] == "another"
    assert questions.resolve(*two)["cache"] == "hit"


def test_a_purge_of_everything(questions, cloud):
    questions.resolve(*ONE)
    questions.resolve("network", "green", "10.0.0.2")
    assert questions.purge()["dropped"] >= 2
    assert questions.resolve(*ONE)["cache"] == "miss"
    assert questions.resolve("network", "green", "10.0.0.2")["cache"] == "miss"


def test_what_was_purged_does_not_come_back_when_neutron_is_away(questions, cloud):
    """R-13 is about what is remembered; this is not any more."""
    questions.resolve(*ONE)
    questions.purge()
    cloud.down = True
    with pytest.raises(Unavailable):
        questions.resolve(*ONE)


@pytest.fixture
def process(tmp_path, cloud):
    """Makes processes of one group, which share a directory."""

    def make(prefetching=True):
        shared = SharedCache(DirectoryStore(tmp_path, 40.0), time.monotonic)
        return Questions(
            cache(cloud, time.monotonic, prefetching, shared=shared, group=ProcessGroup(tmp_path))
        )

    return make


@pytest.mark.parametrize("prefetching", [True, False])
@pytest.mark.parametrize("scope", [(), ("network", "blue")])
def test_a_purge_reaches_what_processes_share(process, cloud, scope, prefetching):
    one, two = process(prefetching), process(prefetching)
    one.resolve(*ONE)
    assert two.resolve(*ONE)["calls"] == 0
    cloud.remove(1)
    cloud.put(1, device="another")
    assert one.purge(*scope) == {"dropped": 1 + prefetching, "shared": True}
    later = process(prefetching)  # which nobody could tell
    assert later.resolve(*ONE)["instance"]["id"] == "another"
    assert one.resolve(*ONE)["instance"]["id"] == "another"
    assert two.resolve(*ONE)["instance"]["id"] == "instance-1"  # its own memory: it is asked to purge, too
    two.purge(*scope)
    assert two.resolve(*ONE)["instance"]["id"] == "another"


def test_a_purge_of_another_network_leaves_what_is_shared(process, cloud):
    one = process()
    one.resolve(*ONE)
    one.purge("network", "green")
    assert process().resolve(*ONE)["calls"] == 0


def test_what_is_asked_after_a_purge_is_shared_again(process, cloud):
    one = process()
    one.purge()
    one.resolve(*ONE)
    assert process().resolve(*ONE)["calls"] == 0


def test_a_purge_says_when_the_shared_cache_cannot_be_told(tmp_path, cloud):
    shared = SharedCache(DirectoryStore(tmp_path / "absent", 40.0), time.monotonic)
    questions = Questions(cache(cloud, time.monotonic, shared=shared))
    assert questions.purge() == {"dropped": 0, "shared": False}


# --- checks -----------------------------------------------------------------------------


@pytest.fixture
def checking(cloud):
    return Questions(cache(cloud))


def test_a_resolver_may_have_no_check(cloud):
    assert Questions(cache(cloud, prefetching=False)).check() == "there is nothing to check"


def test_the_check_asks_the_back_end(checking, cloud):
    assert checking.check() == "Neutron answers"
    assert sum(cloud.queries.values()) == 1
    cloud.down = True
    with pytest.raises(Unavailable):
        checking.check()


def test_a_check_asks_once_for_all_who_want_to_know(checking, cloud):
    check = Check(checking.check, counts=60.0)
    for _ in range(5):
        check.begin()
        assert check.result(time.monotonic() + 10)["ok"]
    assert sum(cloud.queries.values()) == 1


def test_a_check_that_takes_too_long_is_not_begun_again(checking, cloud):
    cloud.gate.clear()
    check = Check(checking.check, counts=60.0)
    for _ in range(3):
        check.begin()
        assert check.result(time.monotonic() + 0.05)["text"] == "no result in time"
    cloud.gate.set()
    assert check.result(time.monotonic() + 10) == check.result(0.0)
    assert check.result(0.0)["ok"]
    assert sum(cloud.queries.values()) == 1


def test_a_defect_is_no_good_news(caplog):
    check = Check(lambda: str(1 / 0))
    check.begin()
    found = check.result(time.monotonic() + 10)
    assert (found["ok"], "defect" in found["text"]) == (False, True)
    assert "ZeroDivisionError" in caplog.text
