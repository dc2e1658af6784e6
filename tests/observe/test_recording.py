"""What each request does for its observers is the same in Python and in C, whatever the application does."""

import gc
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mdmw.observe import ids, recording
from mdmw.records import INSTANCE, JOURNAL, SOURCE

REQUEST_ID = re.compile(r"req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9]{12}")
NAME = "X-Openstack-Request-Id"
WRITTEN = ("method", "target", "peer", "source", "instance", "status", "sent", "cache", "error", "trace")


def in_python():
    """The module as it is where nothing could be compiled."""
    spec = importlib.util.find_spec(recording.__name__)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, MDMW_NO_EXTENSIONS="1"):
        spec.loader.exec_module(module)
    return module


FORMS = {
    "Python": in_python(),
    "C": recording if recording.Journal.__module__.endswith("._recording") else None,
}


@pytest.fixture(scope="session")
def built():
    """Only where there is the one in C."""
    if FORMS["C"] is None:
        pytest.skip("mdmw.observe._recording is not built: no C compiler, or no headers of Python")


@pytest.fixture(params=FORMS)
def form(request):
    """One of the two."""
    if request.param == "C":
        request.getfixturevalue("built")
    return FORMS[request.param]


class Streams:
    """What `Observed` adds: here a body on its way is told of, and its journal ends at once."""

    def stream(self, body, journal):
        journal.seconds = time.perf_counter() - journal.began
        self.over(journal)
        return iter(body)


def recorder(form, app, observers=("first",)):
    """An application with its records, and the list of those that are over."""
    over = []
    return type("Recorder", (Streams, form.Recording), {})(app, observers, over.append), over


def forget(form):
    """As after a fork."""
    if form is FORMS["C"]:
        sys.modules["mdmw.observe._recording"].forget_ids()
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
    assert not deed["nested"] or not of_inner
    (journal,) = over
    assert journal is environ[JOURNAL]
    journal.close(0.0)
    assert journal.time == journal.began
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
    journal.close(journal.began - 5.0)
    assert journal.time == pytest.approx(5.0)
    assert list(journal.stages) == [f"stage {number}" for number in range(100)]
    assert sum(journal.stages.values()) > 0


def test_a_journal_is_open_to_all_who_take_part(form):
    journal = form.Journal("GET", "/")
    assert (journal.source, journal.instance, journal.trace, dict(journal.notes)) == (None, None, None, {})
    assert (journal.peer, journal.cache, journal.error, journal.parent_span) == ("", "", "", "")
    for name in (*WRITTEN, "notes", "parent_span", "request_id", "observers", "time", "seconds", "stages"):
        value = 5 if name in ("status", "sent", "time", "seconds") else (name,)
        setattr(journal, name, value)
        assert getattr(journal, name) == value


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
            over.pop().close(0.0)
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


# --- without the C ----------------------------------------------------------------------------


def test_all_about_journals_holds_in_python():
    """As after an installation without a compiler: the same tests of all that is around it."""
    tests = [Path(__file__).with_name(name) for name in ("test_journal.py", "test_lines.py", "test_told.py")]
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
