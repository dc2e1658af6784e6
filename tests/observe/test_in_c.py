"""What is done for every request is the same in Python and in C, whatever the application and guests do."""

import gc
import importlib.util
import os
import random
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mdmw.observe import ids, in_c
from mdmw.observe.journal import CACHE_OUTCOMES
from mdmw.observe.lines import JSON, TEXT
from mdmw.observe.trace_context import TraceContext
from mdmw.records import INSTANCE, JOURNAL, SOURCE, Instance, Scope, Source

REQUEST_ID = re.compile(r"req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9]{12}")
NAME = "X-Openstack-Request-Id"
TEXTS = ("method", "target", "peer", "cache", "error", "parent_span", "request_id")
WRITTEN = ("method", "target", "peer", "source", "instance", "status", "sent", "cache", "error", "trace")


def in_python():
    """All of it as it is where nothing could be compiled."""
    found = {}
    for name in ("counting", "lines", "recording"):  # the others import the Journal that is in use
        spec = importlib.util.find_spec(f"mdmw.observe.{name}")
        module = importlib.util.module_from_spec(spec)
        with mock.patch.object(in_c, "IN_C", None):
            spec.loader.exec_module(module)
        found |= vars(module)
    return SimpleNamespace(**found)


FORMS = {"Python": in_python(), "C": in_c.IN_C}


@pytest.fixture(scope="session")
def built():
    """Only where there is the one in C."""
    if FORMS["C"] is None:
        pytest.skip("mdmw.observe._in_c is not built: no C compiler, or no headers of Python")


@pytest.fixture(params=FORMS)
def form(request):
    """One of the two."""
    if request.param == "C":
        request.getfixturevalue("built")
    return FORMS[request.param]


class Streams:
    """What `Observed` adds: here a body on its way is told of, and its journal ends at once."""

    def stream(self, body, journal):
        journal.close()
        self.over(journal)
        return iter(body)


def recorder(form, app, observers=("first",)):
    """An application with its records, and the list of those that are over."""
    over = []
    return type("Recorder", (Streams, form.Recording), {})(app, observers, over.append), over


def forget(form):
    """As after a fork."""
    if form is FORMS["C"]:
        form.forget_ids()
    else:
        ids._forget()


# --- the same -----------------------------------------------------------------------------

texts = st.text(max_size=5)
environs = st.dictionaries(
    st.sampled_from(
        ["REQUEST_URI", "RAW_URI", "PATH_INFO", "REQUEST_METHOD", "REMOTE_ADDR", SOURCE, INSTANCE]
    ),
    texts,
)
header_names = st.sampled_from([NAME, NAME.lower(), NAME.upper(), NAME[:-1], "Content-Type"]) | texts
headers = st.lists(st.tuples(header_names, texts), max_size=4)
statuses = st.sampled_from(["200 OK", "404", "503 Not now", "", "20", "2x0 No", "٢٠٠ OK", " 200"])
bodies = st.lists(st.binary(max_size=5), max_size=3)
#: What an application does, in order; the last of it is what it returns or raises.
deeds = st.fixed_dictionaries(
    {
        "stages": st.lists(st.sampled_from(["identify", "resolve", "forward", "respond"]), max_size=20),
        "starts": st.lists(st.tuples(statuses, headers, st.booleans()), max_size=2),
        "ends": bodies | bodies.map(tuple) | st.sampled_from([KeyError("x"), SystemExit(), OSError(5, "y")]),
        "writes": st.dictionaries(st.sampled_from(["REMOTE_ADDR", SOURCE, INSTANCE]), texts | st.none()),
        "nested": st.booleans(),
    }
)


def done(form, environ, deed):
    """All that can be seen of one request."""
    seen = []

    def start_response(*args):
        status, headers, *more = args
        request_id = environ[JOURNAL].request_id
        seen.append((status, [(n, "the id" if v == request_id else v) for n, v in headers], more))
        return seen.append

    def app(environ, start_response):
        journal = environ[JOURNAL]
        assert form.here().journal is journal
        for stage in deed["stages"]:
            journal.ended(stage)
        environ.update(deed["writes"])
        for status, headers, is_second in deed["starts"]:
            start_response(status, headers, *[("exc_info",)] * is_second)("written")
        if isinstance(deed["ends"], BaseException):
            raise deed["ends"]
        return deed["ends"]

    inner = app
    if deed["nested"]:
        inner, of_inner = recorder(form, app, ("second", "third"))
    outer, over = recorder(form, inner)
    environ = dict(environ)
    try:
        ended = list(outer(environ, start_response))
    except BaseException as error:
        ended = repr(error)
    assert form.here().journal is None
    (journal,) = over
    assert journal is environ[JOURNAL]
    assert not deed["nested"] or not of_inner
    assert abs(time.time() - journal.time) < 60
    assert 0 <= sum(journal.stages.values()) <= journal.seconds
    written = {name: getattr(journal, name) for name in WRITTEN}
    return ended, seen, written, journal.observers, list(journal.stages), dict(journal.notes)


@pytest.mark.usefixtures("built")
@given(environs, deeds)
@example({}, {"stages": [], "starts": [], "ends": [], "writes": {}, "nested": False})
def test_both_do_the_same(environ, deed):
    first, second = (done(form, environ, deed) for form in FORMS.values())
    assert first == second


def test_an_answer_has_the_id(form):
    def app(environ, start_response):
        start_response("201 Created", [("Content-Type", "text/plain")])
        return [b"abc", b"de"]

    whole, over = recorder(form, app)
    seen = []
    assert whole({"REQUEST_URI": "/a?b"}, lambda *args: seen.append(args)) == [b"abc", b"de"]
    (journal,) = over
    assert (journal.target, journal.status, journal.sent) == ("/a?b", 201, 5)
    assert seen == [("201 Created", [("Content-Type", "text/plain"), (NAME, journal.request_id)])]


def test_more_stages_than_a_pipeline_has(form):
    """Each has its share of the time, however often it comes."""
    journal = form.Journal("GET", "/")
    for number in range(1000):
        journal.ended(f"stage {number % 100}")
    assert list(journal.stages) == [f"stage {number}" for number in range(100)]
    assert sum(journal.stages.values()) > 0


def test_a_journal_is_open_to_all_who_take_part(form):
    journal = form.Journal("GET", "/")
    assert (journal.source, journal.instance, journal.trace, dict(journal.notes)) == (None, None, None, {})
    assert (journal.peer, journal.cache, journal.error, journal.parent_span) == ("", "", "", "")
    values = {name: name for name in TEXTS} | dict.fromkeys(("status", "sent", "time", "seconds"), 5)
    values |= {name: object() for name in ("source", "instance", "trace")}
    values |= {"notes": {"a": 1}, "stages": {"b": 2.0}, "observers": (print,)}
    for name, value in values.items():
        setattr(journal, name, value)
        assert getattr(journal, name) == value
    journal.source = journal.instance = journal.trace = None
    assert (journal.source, journal.instance, journal.trace) == (None, None, None)


@pytest.mark.parametrize("args", [(), ({},), ("environ", print), ({}, print, print)])
def test_a_server_that_calls_wrongly(form, args):
    whole, over = recorder(form, lambda *_: [])
    with pytest.raises((TypeError, AttributeError)):
        whole(*args)
    assert not over


def test_one_that_was_not_initialised(form):
    bare = form.Recording.__new__(form.Recording)
    with pytest.raises((RuntimeError, AttributeError)):
        bare({}, print)


def test_nothing_of_a_request_stays(form):
    """Ten thousand requests leave no object behind, and no reference to what they had."""

    def app(environ, start_response):
        for _ in range(10):
            environ[JOURNAL].ended("a stage")
        start_response("200 OK", given)
        if "fail" in environ:
            raise error
        return body

    def start_response(*_):
        pass

    given, body, error, target, source = [("A", "b")], [b"x"], KeyError(), "/a/target", object()
    whole, over = recorder(form, app)
    watched = (given, body, target, source, app, start_response, whole, *given)

    def ask(number):
        for each in range(number):
            environ = {"REQUEST_URI": target, SOURCE: source} | ({"fail": True} if each % 2 else {})
            try:
                whole(environ, start_response)
            except KeyError:
                error.__traceback__ = None
            over.clear()
            environ.clear()
        gc.collect()
        return [sys.getrefcount(each) for each in watched], len(gc.get_objects())

    before = ask(100)
    after = ask(10_000)
    assert after[0] == before[0]
    assert after[1] <= before[1] + 100


def test_each_thread_has_a_place_of_its_own(form):
    places = []
    barrier = threading.Barrier(4)

    def work(_):
        places.append(form.here())
        barrier.wait(10)
        return form.here()

    with ThreadPoolExecutor(4) as threads:
        assert set(map(id, threads.map(work, range(4)))) == set(map(id, places))
    assert len(set(map(id, [*places, form.here()]))) == 5


# --- request ids ------------------------------------------------------------------------------


def test_ids_look_like_openstacks_and_differ(form):
    made = {form.Journal("GET", "/").request_id for _ in range(10_000)}
    assert len(made) == 10_000
    assert all(REQUEST_ID.fullmatch(one) for one in made)


def test_ids_begin_again_when_their_digits_are_used_up(form, monkeypatch):
    """Twelve digits last for a year of ten thousand requests/s; the thirteenth would make them longer."""
    begun = ("req-12345678-1234-4234-8234-", 10**12 - 2, 10**11, 10**12)
    monkeypatch.setattr(ids, "begin", lambda: begun)
    forget(form)
    made = [form.Journal("GET", "/").request_id for _ in range(4)]
    forget(form)
    assert made == [f"{begun[0]}{number}" for number in (10**12 - 2, 10**12 - 1, 10**11, 10**11 + 1)]


def test_forked_processes_have_ids_of_their_own(form):
    """Workers come from one process, and would otherwise count on from the same number."""
    form.Journal("GET", "/")
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, form.Journal("GET", "/").request_id.encode())
        os._exit(0)
    os.wait()
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read().decode()[:-12] != form.Journal("GET", "/").request_id[:-12]


# --- lines and counts --------------------------------------------------------------------------

guests = st.sampled_from(["10.0.0.5", "", "\xff\n", "a b", '"']) | st.text(max_size=50)
seconds = st.floats(0, 1e6) | st.sampled_from([0.0, 5e-7, 1.5e-6, 0.0012345, 0.001, 30.0])
ended = st.fixed_dictionaries(
    {
        "method": guests,
        "target": st.builds(
            "".join, st.tuples(guests, st.sampled_from(["", "?", "?x=1", "x" * 600]), guests)
        ),
        "peer": guests,
        "source": st.none()
        | st.builds(Source, guests, st.builds(Scope, st.sampled_from(["network", "router"]), guests)),
        "instance": st.none() | st.builds(Instance, guests, guests, guests),
        "status": st.integers(-5, 1000),
        "sent": st.integers(0, 2**62),
        "time": st.floats(0, 4e9),
        "seconds": seconds,
        "stages": st.dictionaries(st.sampled_from(["identify", "resolve", "forward", "mine"]), seconds),
        "cache": st.sampled_from(["", *CACHE_OUTCOMES]),
        "error": st.sampled_from(["", "NotIdentified"]),
        "notes": st.dictionaries(st.sampled_from(["retried", "connected", "more"]), st.integers(1, 2**40)),
        "trace": st.none()
        | st.just(TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)),
        "request_id": st.sampled_from(["req-8b104bb5-b103-4d3f-bf5f-7bbfc06ea7cf", ""]),
    }
)


def journals_of(form, batch):
    """Requests that are over."""
    for attributes in batch:
        journal = form.Journal("GET", "/")
        for name, value in attributes.items():
            setattr(journal, name, value)
        yield journal


def numbers(counters):
    of_all = (counters.classes, counters.durations)
    return (*map(list, of_all), counters.seconds, counters.slowest, counters.first, counters.last)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("look", [JSON, TEXT], ids=["JSON", "text"])
@given(st.lists(ended, max_size=5), st.integers(0, 5))
def test_lines_are_the_same(look, batch, most):
    taken = []
    for form in FORMS.values():
        lines = form.Lines(look, most)
        for journal in journals_of(form, batch):
            lines.over(journal)
        taken.append((*lines.take(), lines.take()))
    assert taken[0] == taken[1]


@pytest.mark.usefixtures("built")
@given(st.lists(ended, max_size=20))
def test_what_is_counted_of_all_is_the_same(batch):
    found = []
    for form in FORMS.values():
        counts = form.ForAll((0.001, 0.5, 30.0))
        for journal in journals_of(form, batch):
            counts.over(journal)
        stages = {stage: numbers(counters) for stage, counters in counts.stages.items()}
        eventful = [(journal.error, dict(journal.notes)) for journal in counts.take_eventful()]
        found.append((numbers(counts.requests), stages, counts.caches, eventful, counts.take_eventful()))
        counts.forget()
        assert (sum(counts.requests.classes), counts.stages, counts.caches) == (0, {}, {})
    assert found[0] == found[1]


@pytest.mark.usefixtures("built")
@given(st.lists(ended, max_size=20), st.integers(1, 3))
def test_what_is_counted_of_each_scope_is_the_same(batch, most):
    found = []
    for form in FORMS.values():
        kept = []
        counts = form.ForEach((0.001, 0.5, 30.0), most, dict.popitem, kept.append)
        for journal in journals_of(form, batch):
            counts.over(journal)
        scopes = {
            kind: {id_: numbers(counters) for id_, counters in same.items()}
            for kind, same in counts.scopes.items()
        }
        found.append((scopes, [journal.target for journal in kept]))
        counts.forget()
        assert not counts.scopes
    assert found[0] == found[1]


@pytest.mark.usefixtures("built")
def test_what_is_remembered_is_never_taken_for_another():
    """More guests and questions than there is room for, which come again in any order."""
    sources = [Source(f"10.0.{number}.5", Scope("network", f"{number % 50}")) for number in range(1000)]
    instances = [None, *(Instance(f"instance {number}", "project", "port") for number in range(30))]
    draw = random.Random(4)
    batch = [
        {
            "source": draw.choice(sources),
            "instance": draw.choice(instances),
            "method": draw.choice(["GET", "HEAD", "GET" * 10, "GET" * 9]),
            "target": f"/{draw.randrange(2000)}" + draw.choice(["", "", "?x", "x" * 200]),
            "request_id": "req-8b104bb5-b103-4d3f-bf5f-7bbfc06ea7cf",
        }
        for _ in range(10_000)
    ]
    found = []
    for form in FORMS.values():
        lines = form.Lines(TEXT)
        counts = form.ForEach((1.0,), 40, lambda same: same.pop(next(iter(same))), lambda journal: None)
        for journal in journals_of(form, batch):
            lines.over(journal)
            counts.over(journal)
        scopes = {id_: numbers(counters) for id_, counters in counts.scopes["network"].items()}
        found.append((lines.take()[0].splitlines(), scopes))
    assert found[0] == found[1]


class Told:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.journals = []
        self.over = self.journals.append


@pytest.fixture
def waiting(form):
    """Where journals wait, with what it was called with."""
    calls = []
    made = form.Waiting(lambda: calls.append("wake"), calls.append)
    return SimpleNamespace(add=made.add, tell=made.tell, forget=made.forget, calls=calls)


def test_observers_are_told_in_order_of_all_that_wait(form, waiting):
    first, second = Told(), Told()
    journals = [form.Journal("GET", f"/{number}") for number in range(10)]
    for number, journal in enumerate(journals):
        journal.observers = (first, second) if number % 4 else (first,)
        waiting.add(journal)
    assert waiting.calls == ["wake"]
    assert not first.journals
    waiting.tell()
    assert first.journals == journals
    assert second.journals == [journal for number, journal in enumerate(journals) if number % 4]
    assert not any(journal.observers for journal in journals)
    assert {who for told in waiting.calls[1:] for who in told} == {first, second}
    waiting.tell()
    waiting.add(journals[0])
    assert waiting.calls.count("wake") == 2


def test_they_do_not_wait_when_there_are_a_few(form, waiting):
    told = Told()
    for number in range(1000):
        journal = form.Journal("GET", f"/{number}")
        journal.observers = (told,)
        waiting.add(journal)
        assert len(told.journals) >= number - 64
    waiting.tell()
    assert [journal.target for journal in told.journals] == [f"/{number}" for number in range(1000)]


def test_a_child_does_not_tell_what_its_parent_had(form, waiting):
    told = Told()
    journal = form.Journal("GET", "/")
    journal.observers = (told,)
    waiting.add(journal)
    waiting.forget()
    waiting.tell()
    assert not told.journals
    waiting.add(journal)
    assert waiting.calls == ["wake", "wake"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as C says it
def test_a_defect_of_one_observer_is_no_affair_of_the_others(form, waiting):
    class Broken:
        def over(self, journal):
            raise ZeroDivisionError

    told = Told()
    for _ in range(100):
        journal = form.Journal("GET", "/")
        journal.observers = (Broken(), told)
        waiting.add(journal)
    waiting.tell()
    assert len(told.journals) == 100


def test_nothing_of_what_was_counted_stays(form):
    """Ten thousand lines and counts leave nothing behind, and no reference to what they were made of."""
    source = Source("10.0.0.5", Scope("network", "blue"))
    instance, notes, stage = Instance("ada", "project", "port"), {"retried": 1}, "a stage of this test"
    lines, of_all = form.Lines(JSON), form.ForAll((1.0,))
    of_each = form.ForEach((1.0,), 10, dict.clear, lambda journal: None)
    watched = (source, source.scope, instance, notes, stage, JSON, *JSON, of_each)

    def tell(number):
        for each in range(number):
            journal = form.Journal("GET", f"/{each}?")
            journal.source, journal.instance, journal.notes = source, instance, notes
            journal.cache, journal.error, journal.stages = "hit", "NotFound", {stage: 1.0}
            for one in (lines, of_all, of_each):
                one.over(journal)
            if each % 50 == 49:
                lines.take()
                of_all.take_eventful()
        gc.collect()
        return [sys.getrefcount(each) for each in watched], len(gc.get_objects())

    before = tell(2000)
    after = tell(10_000)
    assert after[0] == before[0]
    assert after[1] <= before[1] + 100


def test_threads_count_and_write_together(form):
    """Nothing is lost, and no line is torn, whoever takes and tells meanwhile."""
    lines, counts = form.Lines(TEXT), form.ForAll((1.0,))
    taken, done = [], threading.Event()
    waiting = form.Waiting(lambda: None, lambda _: None)

    def take():
        while not done.is_set():
            waiting.tell()
            taken.append(lines.take())

    def ask(number):
        for each in range(1000):
            journal = form.Journal("GET", f"/{number}/{each}")
            journal.error = "NotFound"
            journal.observers = (lines, counts)
            waiting.add(journal)

    with switching_often(), ThreadPoolExecutor(5) as threads:
        taking = threads.submit(take)
        list(threads.map(ask, range(4)))
        done.set()
        taking.result()
    waiting.tell()
    taken.append(lines.take())
    assert sum(number + lost for _, number, lost in taken) == 4000
    written = b"".join(text for text, _, _ in taken).decode().splitlines()
    assert len(written) == sum(number for _, number, _ in taken)
    assert all(line.endswith("error=NotFound") and line.count("req-") == 1 for line in written)
    assert sum(counts.requests.classes) == len(counts.take_eventful()) == 4000


@contextmanager
def switching_often():
    """From thread to thread, whenever that may be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.usefixtures("built")
def test_what_is_no_request_is_refused():
    counting = FORMS["C"]
    for one in (counting.Lines(TEXT), counting.ForAll(()), counting.ForEach((), 1, print, print)):
        with pytest.raises(TypeError, match="a Journal is needed"):
            one.over("GET /")
    with pytest.raises(RuntimeError):
        counting.Lines.__new__(counting.Lines).over(counting.Journal("GET", "/"))
    with pytest.raises(ValueError, match="a form has"):
        counting.Lines(())
    with pytest.raises(ValueError, match="only ASCII"):
        counting.Lines(TEXT._replace(end="\N{PILCROW SIGN}"))
    with pytest.raises(ValueError, match="at most 32 bounds"):
        counting.ForAll((1.0,) * 33)
    with pytest.raises(TypeError):
        counting.Journal("GET", "/").target = None


# --- without the C ----------------------------------------------------------------------------


def test_all_about_journals_holds_in_python():
    """As after an installation without a compiler: the same tests of all that is around it."""
    names = ("test_journal.py", "test_lines.py", "test_told.py", "test_tally.py", "test_meters.py")
    tests = [Path(__file__).with_name(name) for name in names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env=os.environ | {"MDMW_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout


def test_the_switch_is_for_the_whole_process():
    told = "from mdmw.observe.recording import Journal; print(Journal.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", told],
        env=os.environ | {"MDMW_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "mdmw.observe.recording\n"
