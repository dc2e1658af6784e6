"""The journal of a request: what is in it, whoever wrote it, and that it ends once."""

import asyncio
import gc
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from guest import call, environ
from observed import Kept, Observer, observed, saying

from mdmw.boundary.stage import Filter, Terminal
from mdmw.errors import NotIdentified, Unavailable
from mdmw.observe.journal import HIT, RETRIED, journal_of, note, note_error
from mdmw.records import INSTANCE, SOURCE, Instance, Scope, Source

REQUEST_ID = re.compile(r"req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
ADA = Source("10.0.0.5", Scope("network", "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"))
INSTANCE_OF_ADA = Instance("7c52af88-d14b-45ae-87cf-be154d8c8638", "project", "port")


class Identify(Filter):
    stage = "identify"

    def prepare(self, environ):
        environ[SOURCE] = ADA


class Respond(Terminal):
    stage = "respond"

    def __init__(self, error=None):
        self.error = error

    def respond(self, environ):
        environ[INSTANCE] = INSTANCE_OF_ADA
        if self.error:
            raise self.error
        return saying()


@pytest.fixture
def kept():
    return Kept()


def test_a_request(kept):
    """Who, what, when, how long: each stage by its name, all in the time of the whole."""
    before = time.time()
    reply = call(observed(Identify(Respond()), kept), "PUT", "/a%20b?secret=1")
    (journal,) = kept.journals
    assert (journal.method, journal.target, journal.status, journal.sent) == (
        "PUT",
        "/a%20b?secret=1",
        200,
        3,
    )
    assert (journal.source, journal.instance, journal.peer) == (ADA, INSTANCE_OF_ADA, ADA.address)
    assert list(journal.stages) == ["identify", "respond"]
    assert before - 0.1 < journal.time <= time.time()
    assert 0 < sum(journal.stages.values()) < journal.seconds
    assert (journal.cache, journal.error, dict(journal.notes)) == ("", "", {})
    assert reply.value("X-Openstack-Request-Id") == journal.request_id


def test_the_address_that_a_later_filter_proved(kept):
    """hmac-verify says where the guest is, and does so in REMOTE_ADDR."""

    def app(environ, start_response):
        environ["REMOTE_ADDR"] = "10.0.0.7"
        return saying()(environ, start_response)

    call(observed(app, kept), peer="")
    assert kept.journals[0].peer == "10.0.0.7"


def test_notes_stages_and_the_cache_add_up(kept):
    def app(environ, start_response):
        for _ in range(2):
            note(journal_of(environ), RETRIED)
            journal_of(environ).ended("forward")
        note(journal_of(environ), RETRIED, 3)
        journal_of(environ).cache = HIT
        return saying()(environ, start_response)

    call(observed(app, kept))
    (journal,) = kept.journals
    assert dict(journal.notes) == {RETRIED: 5}
    assert (list(journal.stages), journal.cache) == (["forward"], HIT)


def test_without_an_observer_nobody_minds():
    nothing = {}
    assert journal_of(nothing) is None
    note(journal_of(nothing), RETRIED)
    request_id = note_error(nothing, ValueError())
    assert REQUEST_ID.fullmatch(request_id)
    assert note_error(nothing, KeyError()) == request_id == nothing["openstack.request_id"]
    assert call(saying()).value("X-Openstack-Request-Id") is None


@pytest.mark.parametrize(
    ("error", "status"), [(NotIdentified("who"), 404), (Unavailable("gone"), 503), (KeyError("x"), 500)]
)
def test_an_error_has_its_class_and_one_id_everywhere(kept, caplog, error, status):
    """W-18: the page, the header, the log line and the journal."""
    caplog.set_level(logging.INFO)
    reply = call(observed(Respond(error), kept))
    (journal,) = kept.journals
    assert (journal.status, journal.error) == (status, type(error).__name__)
    assert reply.values("X-Openstack-Request-Id") == [journal.request_id]
    assert reply.body.decode().split()[-1] == journal.request_id
    assert journal.request_id in caplog.text


def test_a_defect_of_an_application_is_told_and_raised(kept):
    def app(environ, start_response):
        environ[SOURCE] = ADA
        raise RuntimeError

    with pytest.raises(RuntimeError):
        call(observed(app, kept))
    (journal,) = kept.journals
    assert (journal.error, journal.status, journal.source) == ("RuntimeError", 0, ADA)


def test_an_answer_that_has_an_id_keeps_it(kept):
    """However it is spelled: the agent behind a proxy has one already."""
    reply = call(observed(saying(headers=[("x-openstack-request-ID", "req-theirs")]), kept))
    assert reply.values("X-Openstack-Request-Id") == ["req-theirs"]


def test_several_observers_share_one_journal():
    first, second, third = Kept(), Kept(), Kept()
    call(observed(saying(), first, second, third))
    assert first.journals == second.journals == third.journals
    assert len(first.journals) == 1


def test_a_defect_of_an_observer_costs_neither_guest_nor_others(kept):
    class Broken(Observer):
        def over(self, journals):
            raise ZeroDivisionError

    assert call(observed(saying(), Broken(), kept)).status == 200
    assert len(kept.journals) == 1


def test_an_observer_behind_another_filter_has_the_same_journal(kept):
    inner = Kept()
    call(observed(Identify(observed(saying(), inner)), kept))
    assert inner.journals == kept.journals
    assert kept.journals[0].source == ADA


class Body:
    """A body on its way, which can break."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.closed = 0

    def __iter__(self):
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self):
        self.closed += 1


def test_a_stream_is_over_when_it_is_closed(kept):
    body = Body(b"ab", b"cde")
    chunks = observed(saying(body), kept)(environ(), lambda *_: None)
    assert next(iter(chunks)) == b"ab"
    assert not kept.journals
    chunks.close()
    chunks.close()
    assert [journal.sent for journal in kept.journals] == [2]  # the client went away in the middle
    assert body.closed == 2


def test_a_stream_that_is_read_to_its_end(kept):
    assert call(observed(saying(Body(b"ab", b"cde")), kept)).body == b"abcde"
    assert kept.journals[0].sent == 5


def test_a_stream_that_breaks(kept):
    chunks = observed(saying(Body(b"ab", ConnectionResetError())), kept)(environ(), lambda *_: None)
    with pytest.raises(ConnectionResetError):
        list(chunks)
    chunks.close()
    assert (kept.journals[0].error, kept.journals[0].sent) == ("ConnectionResetError", 2)


def test_a_stream_without_close(kept):
    assert call(observed(saying((b"ab", b"c")), kept)).body == b"abc"
    assert kept.journals[0].sent == 3


def test_requests_at_the_same_time_have_journals_of_their_own(kept):
    both = threading.Barrier(2)

    def app(environ, start_response):
        both.wait(10)
        note(journal_of(environ), environ["PATH_INFO"][1:])
        return saying()(environ, start_response)

    whole = observed(app, kept)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda n: call(whole, target=f"/{n}"), range(20)))
    assert sorted(journal.target for journal in kept.journals) == sorted(f"/{n}" for n in range(20))
    assert all(dict(journal.notes) == {journal.target[1:]: 1} for journal in kept.journals)


# --- contexts, pipelines and processes ------------------------------------------------------


async def _in_threads(app, addresses):
    """Requests at the same time, each called from a copy of one context, as a2wsgi and asgiref do."""

    def ask(address):
        return call(app, peer=address)

    return await asyncio.gather(*(asyncio.to_thread(ask, address) for address in addresses))


@pytest.mark.parametrize("is_warm", [False, True])
def test_guests_whose_requests_share_a_context_have_journals_of_their_own(kept, is_warm):
    """W-18: the id in an error page is that of the request, whatever library calls the pipeline."""
    together = threading.Barrier(3)

    def app(environ, start_response):
        if is_warm and environ["REMOTE_ADDR"] == "10.0.0.1":
            return saying()(environ, start_response)
        together.wait(10)
        body = note_error(environ, ValueError()).encode()
        together.wait(10)
        return saying([body])(environ, start_response)

    whole = observed(app, kept)
    if is_warm:
        call(whole, peer="10.0.0.1")
    replies = asyncio.run(_in_threads(whole, ["10.0.0.5", "10.0.0.6", "10.0.0.7"]))
    journals = {journal.peer: journal for journal in kept.journals}
    assert len(kept.journals) == 3 + is_warm
    for address, reply in zip(["10.0.0.5", "10.0.0.6", "10.0.0.7"], replies, strict=True):
        assert reply.values("X-Openstack-Request-Id") == [journals[address].request_id]
        assert reply.body.decode() == journals[address].request_id


def test_two_pipelines_in_one_process_share_nothing():
    one, two = Kept(), Kept()
    first, second = observed(saying(), one), observed(saying(), two)
    for _ in range(3):
        call(first)
    call(second)
    assert (len(one.journals), len(two.journals)) == (3, 1)


def test_openstack_names_of_the_request_id(kept):
    """oslo.context reads these keys; a guest cannot write them, since they are no headers."""
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        return saying()(environ, start_response)

    call(observed(app, kept), headers=[("openstack.request_id", "mine"), ("X-Openstack-Request-Id", "mine")])
    assert seen["openstack.request_id"] == kept.journals[0].request_id
    assert "openstack.global_request_id" not in seen


class Closing(Kept):
    """Remembers that it was closed."""

    def __init__(self):
        super().__init__()
        self.closed = threading.Event()

    def close(self):
        self.closed.set()


def test_a_pipeline_that_goes_away_tells_what_is_left_and_ends_its_thread():
    observer = Closing()
    app = observed(saying(), observer)
    call(app)
    observer.catch_up = lambda: None
    before = threading.active_count()
    del app
    gc.collect()
    assert observer.closed.wait(10)
    assert len(observer.journals) == 1
    assert threading.active_count() < before


# --- a moment later -----------------------------------------------------------------------


class Told(Observer):
    """Counts the requests it was told of, and how often."""

    def __init__(self):
        self.requests = self.times = self.forgotten = 0
        self.condition = threading.Condition()

    def over(self, journals):
        with self.condition:
            self.requests += len(journals)
            self.times += 1
            self.condition.notify_all()

    def forget(self):
        self.requests = self.times = 0
        self.forgotten += 1

    def wait(self, requests):
        """Until it was told of so many requests."""
        with self.condition:
            assert self.condition.wait_for(lambda: self.requests >= requests, 10)


def test_observers_are_told_a_moment_after_requests_of_several_together():
    first, second = Told(), Told()
    app = observed(saying(), first, second)
    for _ in range(1000):
        call(app)
    first.wait(1000)
    second.wait(1000)
    assert first.times < 100
    call(app)
    second.wait(1001)


def test_no_request_is_overlooked_while_observers_are_told():
    """The one that is over in the middle of a round has the next one."""
    observer = Told()
    app = observed(saying(), observer)
    over = observer.over

    def over_and_ask(journals):
        over(journals)
        if observer.requests == 1:
            call(app)

    observer.over = over_and_ask
    call(app)
    observer.wait(2)
    assert observer.times == 2


def test_an_observer_without_requests_is_left_alone():
    busy, idle = Told(), Told()
    quiet = observed(saying(), idle)
    app = observed(saying(), busy)
    call(app)
    app.flush()
    quiet.flush()
    assert (busy.times, idle.times) == (1, 0)


def test_what_a_parent_had_is_not_told_again_by_its_child():
    """The child's own first request is told, and its ids are not those of the parent."""
    observer = Told()
    app = observed(saying(), observer)
    ids = {call(app).value("X-Openstack-Request-Id")}
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(call(app).value("X-Openstack-Request-Id") for _ in range(20)).encode())
        app.flush()
        os._exit((observer.requests, observer.forgotten) != (20, 1))
    ids |= {call(app).value("X-Openstack-Request-Id") for _ in range(20)}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    childs = os.read(reader, 65536).decode()
    os.close(reader)
    os.close(writer)
    assert not any(one in childs for one in ids)
    app.flush()
    assert (observer.requests, observer.forgotten) == (21, 0)


_STUCK = """
import os, sys, threading
reader, writer = os.pipe()
os.dup2(writer, 2)  # a pipe that nobody reads
from pathlib import Path
from mdmw.filters import access_log, introspect, metrics
from mdmw.observe.metrics import collect
from mdmw.observe.processes import ask
directory = Path(sys.argv[1])
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"x"]
app = introspect.filter_factory({}, introspect_dir=str(directory / "processes"))(app)
app = metrics.filter_factory({}, metrics_dir=str(directory / "metrics"))(app)
app = access_log.filter_factory({})(app)
for _ in range(3000):
    app({"REQUEST_METHOD": "GET", "RAW_URI": "/"}, lambda *_: None)
def served():
    samples = [s for family in collect(directory / "metrics") for s in family.samples]
    return sum(s.value for s in samples if s.name == "mdmw_requests_total")
pause = threading.Event()
while not (directory / "metrics" / "lock").exists() or served() < 3000:
    pause.wait(0.05)
(reply,) = ask(directory / "processes", "counters")
print(sum(scope["count"] for scope in reply.answer["scopes"]))
"""


def test_a_log_that_nobody_reads_stops_nothing_else(tmp_path):
    """Metrics and introspection go on, and the process ends."""
    with tempfile.TemporaryDirectory(prefix="mdmw-") as directory:
        command = [sys.executable, "-c", _STUCK, directory]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert done.stdout == "3000\n"
