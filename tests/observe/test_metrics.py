"""What is counted, and that it survives the processes that counted it."""

import errno
import gc
import logging
import os
import signal
import struct
import threading

import pytest
from guest import call
from hypothesis import given
from hypothesis import strategies as st
from observed import saying
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from mdmw import errors
from mdmw.locking import try_lock
from mdmw.observe import journal, metrics, series
from mdmw.observe.journal import Journal
from mdmw.observe.metrics import Metrics, ProcessFiles, Totals, collect
from mdmw.observe.recording import Observed
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import Limits, Slots, Upstream

COUNTER = series.NOTED[journal.CONNECTED]
LABELS = ("combined",)


def over(**attributes):
    """A request that is over."""
    made = Journal("GET", "/")
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def values(directory):
    """All samples: (name, label values in the order of their names) -> number."""
    samples = [sample for family in collect(directory) for sample in family.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in samples}


def counted(directory):
    return values(directory).get((COUNTER.name, *LABELS))


class Process:
    """Another process, which has counted one connection, and has 5 slots."""

    living = []

    def __init__(self, directory):
        self.living.append(self)
        has_counted, counted = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            files = ProcessFiles(directory)
            files.count(COUNTER, LABELS, 1)
            files.set({(series.SLOTS, ("nova",)): 5})
            os.write(counted, b".")
            signal.pause()
        os.read(has_counted, 1)
        os.close(has_counted)
        os.close(counted)

    def kill(self):
        self.living.remove(self)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


@pytest.fixture(autouse=True)
def _no_process_stays():
    yield
    for process in Process.living.copy():
        process.kill()


@pytest.fixture
def files(tmp_path):
    made = ProcessFiles(tmp_path)
    yield made
    made.close()


# --- what is counted --------------------------------------------------------------------

names = st.text(max_size=9) | st.sampled_from([name for name in vars(errors) if name[0].isupper()])
requests = st.fixed_dictionaries(
    {
        "status": st.integers(-5, 1000),
        "error": st.just("") | names,
        "cache": names | st.sampled_from(journal.CACHE_OUTCOMES),
        "notes": st.dictionaries(names | st.sampled_from(journal.NOTES), st.integers(1, 9)),
        "stages": st.dictionaries(names | st.sampled_from(series.STAGES), st.floats(0, 1e6)),
        "seconds": st.floats(0, 1e6),
    }
)
batches = st.lists(requests, max_size=5)
ERRORS = {"bad_request", "contradiction", "not_identified", "refused", "unavailable", "overloaded", "defect"}


def totals(batch):
    """Counts and histograms, by series and values of labels."""
    made = Totals("combined")
    for attributes in batch:
        made.add([over(**attributes)])
    counts = dict(made.numbers())
    histograms = {name: (durations, seconds) for name, durations, seconds in made.histograms()}
    return counts, histograms


@given(batches)
def test_an_unexpected_value_never_makes_a_new_label(batch):
    counts, histograms = totals(batch)
    allowed = {
        "pipeline": {"combined"},
        "status": {"2xx", "3xx", "4xx", "5xx", "none"},
        "stage": {*series.STAGES, "other"},
        "error": {series.error_label(name) for name in vars(errors)} | {"killed"},
        "outcome": set(journal.CACHE_OUTCOMES),
    }
    assert len(allowed["error"]) < 30
    assert allowed["error"] >= ERRORS
    for kind, labels in (*counts, *histograms):
        for name, value in zip(kind.labels, labels, strict=True):
            assert value in allowed[name]


@given(batches)
def test_nothing_is_lost(batch):
    counts, histograms = totals(batch)

    def total(kind):
        return sum(number for (of, _), number in counts.items() if of is kind)

    assert total(series.REQUESTS) == len(batch)
    assert total(series.ERRORS) == sum(bool(one["error"]) for one in batch)
    assert total(series.CACHE) == sum(one["cache"] in journal.CACHE_OUTCOMES for one in batch)
    for what in journal.NOTES:
        assert total(series.NOTED[what]) == sum(one["notes"].get(what, 0) for one in batch)
    whole, seconds = histograms[series.REQUEST_SECONDS, LABELS]
    assert sum(whole) == len(batch)
    assert seconds == pytest.approx(sum(one["seconds"] for one in batch))
    of_stages = [
        sum(durations) for (kind, _), (durations, _) in histograms.items() if kind is series.STAGE_SECONDS
    ]
    assert sum(of_stages) == sum(len(one["stages"]) for one in batch)


def test_an_error_counts_under_the_class_that_people_know():
    class OfAPlugin(errors.Overloaded):
        pass

    assert series.error_label("BackendSlow") == "backend_slow"
    assert series.error_label("OfAPlugin") == "overloaded"
    assert series.error_label("KeyError") == series.error_label("PipelineError") == "defect"
    assert series.error_label("GreenletExit") == "killed"


def test_the_stage_of_an_error_is_the_one_it_came_to():
    stages = {"identify": 0.1, "resolve": 0.2}
    counts, _ = totals([{"error": "Unavailable", "stages": stages}, {"error": "KeyError"}])
    assert counts[series.ERRORS, ("combined", "resolve", "unavailable")] == 1
    assert counts[series.ERRORS, ("combined", "other", "defect")] == 1


@given(st.lists(st.floats(0, 100) | st.sampled_from(series.BUCKETS), min_size=1))
def test_buckets_hold_what_is_not_above_their_bound(tmp_path_factory, seconds):
    directory = tmp_path_factory.mktemp("metrics")
    meters = Metrics(directory, "combined")
    meters.over([over(seconds=one) for one in seconds])
    meters.flush()
    found = values(directory)
    meters.close()
    name = series.REQUEST_SECONDS.name
    for bound in series.BUCKETS:
        assert found[f"{name}_bucket", str(bound), "combined"] == sum(one <= bound for one in seconds)
    assert found[f"{name}_bucket", "+Inf", "combined"] == found[f"{name}_count", "combined"] == len(seconds)
    assert found[f"{name}_sum", "combined"] == pytest.approx(sum(seconds))


# --- by whom ----------------------------------------------------------------------------


def test_processes_are_added_up_and_what_the_dead_counted_stays(tmp_path, files):
    processes = [Process(tmp_path) for _ in range(3)]
    files.count(COUNTER, LABELS, 10)
    assert counted(tmp_path) == 13
    assert values(tmp_path)["mdmw_upstream_slots", "nova"] == 15
    for number, process in enumerate(processes):
        process.kill()
        assert counted(tmp_path) == 13
        assert values(tmp_path).get(("mdmw_upstream_slots", "nova"), 0) == 10 - 5 * number
    assert len([*tmp_path.glob("*.live")]) == 1
    assert len([*tmp_path.glob("*.db")]) == 6  # four of ours, two of those that are gone
    Process(tmp_path).kill()
    files.count(COUNTER, LABELS, 11)
    assert counted(tmp_path) == 15


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may look at what is another's")
def test_root_looks_and_touches_nothing(tmp_path):
    """Who owns the directory could have it write and remove elsewhere, by links."""
    Process(tmp_path).kill()
    Process(tmp_path).kill()
    os.chown(tmp_path, 65534, 65534)
    there = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert counted(tmp_path) == 2
    assert ("mdmw_upstream_slots", "nova") not in values(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == there


def test_a_process_id_that_is_used_again_deceives_nobody(tmp_path):
    """After a reboot, or in another container, a file may have the number of a process that lives."""
    Process(tmp_path).kill()
    for path in [path for path in tmp_path.iterdir() if "-" in path.name]:
        old = path.name.removeprefix("gauge_").partition("-")[0].rpartition("_")[2]
        path.rename(path.with_name(path.name.replace(old, str(os.getpid()))))
    assert counted(tmp_path) == 1
    assert ("mdmw_upstream_slots", "nova") not in values(tmp_path)


def test_what_makes_no_sense_is_removed(tmp_path, caplog):
    (tmp_path / "counter_1-0.db").write_bytes(struct.pack("=4i", 100, 0, 5000, 0))
    (tmp_path / "histogram_1-0.db").write_bytes(b"")
    files = ProcessFiles(tmp_path)
    files.count(COUNTER, LABELS, 2)
    assert counted(tmp_path) == 2
    files.close()
    assert sum("is not a file of metrics and is removed" in line for line in caplog.messages) == 2


def test_nothing_is_counted_twice_or_lost_while_processes_come_and_go(tmp_path):
    """Scrapes add up the dead while others are born; the sum only grows, and is right in the end."""
    born = 12
    seen = []
    done = threading.Event()

    def scrape():
        while not done.is_set():
            seen.append(counted(tmp_path) or 0)

    scrapers = [threading.Thread(target=scrape) for _ in range(2)]
    for thread in scrapers:
        thread.start()
    for _ in range(born // 3):
        processes = [Process(tmp_path) for _ in range(3)]
        for process in processes:
            process.kill()
    done.set()
    for thread in scrapers:
        thread.join()
    assert counted(tmp_path) == born
    assert len(seen) > 10
    assert max(seen) <= born


def test_a_forked_child_counts_for_itself(tmp_path):
    meters = Metrics(tmp_path, "combined")
    app = Observed(saying(), meters)
    meters.over([over(notes={journal.CONNECTED: 1})])
    meters.flush()
    child = os.fork()
    if child == 0:
        meters.forget()
        meters.over([over(notes={journal.CONNECTED: 5})])
        meters.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    meters.over([over(notes={journal.CONNECTED: 1})])
    meters.flush()
    assert counted(tmp_path) == 7
    assert values(tmp_path)["mdmw_processes", "combined"] == 1
    assert app


def test_when_one_file_cannot_be_made_none_stays_open(tmp_path, monkeypatch):
    """As when the process may have no more files, or the directory goes away."""

    def opened(path):
        if "livemin" in path:
            raise OSError(errno.EMFILE, "Too many open files")
        return MmapedDict(path)

    monkeypatch.setattr(metrics, "MmapedDict", opened)
    with pytest.raises(OSError, match="Too many"):
        ProcessFiles(tmp_path)
    gc.collect()  # a file that is still open says so, and that is an error
    (live,) = tmp_path.glob("*.live")
    with live.open("ab") as file:
        assert try_lock(file.fileno())


def test_a_directory_that_cannot_be_made_costs_no_request(tmp_path, caplog):
    """It is said, once; when it can be made, nothing is missing."""
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "metrics"
    meters = Metrics(directory, "combined")
    app = Observed(saying(), meters)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert call(app).status == 200
            app.flush()
            meters.flush()
    assert caplog.messages == [
        f"{directory}: metrics cannot be written: Not a directory (said once a minute)"
    ]
    (tmp_path / "file").unlink()
    (tmp_path / "file").mkdir()
    assert call(app).status == 200
    app.flush()
    meters.flush()
    assert values(directory)["mdmw_requests_total", "combined", "2xx"] == 4


def test_what_has_never_happened_is_zero(tmp_path):
    """So that an alert sees the first time."""
    meters = Metrics(tmp_path, "combined")
    meters.over([over(status=200)])
    meters.flush()
    found = values(tmp_path)
    assert found["mdmw_requests_total", "combined", "2xx"] == 1
    assert found["mdmw_requests_total", "combined", "5xx"] == 0
    assert found["mdmw_forged_headers_total", "combined"] == 0
    assert found["mdmw_cache_lookups_total", "stale", "combined"] == 0
    assert found["mdmw_errors_total", "refused", "combined", "forward"] == 0


# --- what is measured ------------------------------------------------------------------


def test_slots_of_one_upstream_are_added_up(tmp_path):
    first, second = Slots(3, 2, "test"), Slots(4, 2, "test")
    first.acquire(0)
    second.acquire(0)
    second.acquire(0)
    meters = Metrics(tmp_path, "combined", lambda: [*first.measurements(), *second.measurements()])
    meters.flush()
    found = values(tmp_path)
    assert (found["mdmw_upstream_slots", "test"], found["mdmw_upstream_slots_in_use", "test"]) == (7, 3)
    second.release()
    meters.flush()
    assert values(tmp_path)["mdmw_upstream_slots_in_use", "test"] == 2
    meters.close()
    assert ("mdmw_upstream_slots", "test") not in values(tmp_path)


def test_the_number_of_waiting_requests_is_measured():
    slots = Slots(1, 5, "waited-for")
    slots.acquire(0)
    began = threading.Event()

    def wait():
        began.set()
        slots.acquire(10)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    began.wait()
    while slots.waiting < 2:
        threads[0].join(0.001)
    assert (series.WAITING, ("waited-for",), 2) in slots.measurements()
    slots.release()
    slots.release()
    for thread in threads:
        thread.join()
    assert slots.waiting == 0
    assert slots.in_use == 1


def test_gauges_are_written_without_a_request(tmp_path):
    slots = Slots(9, 1, "looked-at")
    meters = Metrics(tmp_path, "combined", slots.measurements)
    meters.over([over()])
    meters.flush()
    slots.acquire(0)
    pause = threading.Event()
    while values(tmp_path).get(("mdmw_upstream_slots_in_use", "looked-at")) != 1:
        assert not pause.wait(0.05)  # ended by the time limit of the test
    meters.close()


def test_connections_that_no_journal_tells_of_are_counted_too(tmp_path):
    """A resolver asks Neutron also where no request waits for the answer."""
    upstream = Upstream([Address("http", "127.0.0.1", 1)], Limits(), name="neutron")
    for _ in range(2):
        with pytest.raises(errors.Unavailable):
            upstream.exchange("GET", "/", [])
    meters = Metrics(tmp_path, "combined", upstream.measurements)
    meters.over([over(notes={journal.FAILOVER: 3})])
    meters.flush()
    assert values(tmp_path)["mdmw_upstream_failovers_total", "combined"] == 5
    meters.close()


def test_what_mdmw_relies_on_in_prometheus_client(tmp_path):
    """These names are not public, so setup.cfg has an upper bound: try this test with a newer version."""
    key = mmap_key("family", "family_total", ["a"], ["b"], "help")
    file = MmapedDict(str(tmp_path / "counter_1.db"))
    file.write_value(key, 2.5, 0.0)
    file.close()
    ((found, value, _, _),) = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_1.db"))
    assert (found, value) == (key, 2.5)
    (family,) = MultiProcessCollector.merge([str(tmp_path / "counter_1.db")])
    assert [(sample.name, sample.labels, sample.value) for sample in family.samples] == [
        ("family_total", {"a": "b"}, 2.5)
    ]
