"""The journal of a request: what is in it, whoever wrote it, and that it ends once."""

import logging
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from guest import call, environ
from observed import Kept, Observer, observed, saying

from mdmw.boundary.stage import Filter, Terminal
from mdmw.errors import NotIdentified, Unavailable
from mdmw.observe import background as boundary
from mdmw.observe.background import flush
from mdmw.observe.journal import HIT, RETRIED, current, note, note_cache, note_error
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
            note(RETRIED)
            current().ended("forward")
        note(RETRIED, 3)
        note_cache(HIT)
        return saying()(environ, start_response)

    call(observed(app, kept))
    (journal,) = kept.journals
    assert dict(journal.notes) == {RETRIED: 5}
    assert (list(journal.stages), journal.cache) == (["forward"], HIT)


def test_without_an_observer_nobody_minds():
    assert current() is None
    note(RETRIED)
    note_cache(HIT)
    assert REQUEST_ID.fullmatch(note_error(ValueError()))
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
    assert current() is None


def test_an_answer_that_has_an_id_keeps_it(kept):
    """However it is spelled: the agent behind a proxy has one already."""
    reply = call(observed(saying(headers=[("x-openstack-request-ID", "req-theirs")]), kept))
    assert reply.values("X-Openstack-Request-Id") == ["req-theirs"]


def test_several_observers_share_one_journal():
    first, second, third = Kept(), Kept(), Kept()
    call(observed(saying(), first, second, third))
    assert first.journals == second.journals == third.journals
    assert len(first.journals) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as C says it
def test_a_defect_of_an_observer_costs_neither_guest_nor_others(kept):
    class Broken(Observer):
        def over(self, journal):
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


def test_what_is_noted_while_the_body_is_sent_is_of_no_request(kept):
    """The thread may have another request by then."""

    def late():
        assert current() is None
        note(RETRIED)
        yield b"x"

    call(observed(saying(late()), kept))
    assert not kept.journals[0].notes


def test_requests_at_the_same_time_have_journals_of_their_own(kept):
    both = threading.Barrier(2)

    def app(environ, start_response):
        mine = current()
        both.wait(10)
        note(environ["PATH_INFO"][1:])
        assert current() is mine
        return saying()(environ, start_response)

    whole = observed(app, kept)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda n: call(whole, target=f"/{n}"), range(20)))
    assert sorted(journal.target for journal in kept.journals) == sorted(f"/{n}" for n in range(20))
    assert all(dict(journal.notes) == {journal.target[1:]: 1} for journal in kept.journals)


# --- a moment later -----------------------------------------------------------------------


class Flushed(Observer):
    """Counts how often it was told, and how often it had time."""

    def __init__(self):
        self.told = self.flushes = self.told_when_flushed = 0
        self.condition = threading.Condition()

    def over(self, journal):
        self.told += 1

    def flush(self):
        with self.condition:
            self.flushes += 1
            self.told_when_flushed = self.told
            self.condition.notify_all()

    def forget(self):
        self.told = 0

    def wait(self, told):
        """Until it had time after so many requests."""
        with self.condition:
            assert self.condition.wait_for(lambda: self.told_when_flushed >= told, 10)


def test_observers_have_time_a_moment_after_requests():
    """All of them in one round, however many requests there were; and again after the next."""
    first, second = Flushed(), Flushed()
    app = observed(saying(), first, second)
    for _ in range(1000):
        call(app)
    first.wait(1000)
    assert first.told == second.told == 1000
    assert first.flushes < 100
    call(app)
    second.wait(1001)


def test_no_request_is_overlooked_while_observers_are_at_it():
    """The one that is over in the middle of a round has the next one."""
    observer = Flushed()
    app = observed(saying(), observer)
    reentered = []

    def flush():
        if not reentered:
            reentered.append(True)
            call(app)
        Flushed.flush(observer)

    observer.flush = flush
    call(app)
    observer.wait(2)
    assert observer.flushes == 2


def test_who_is_told_by_a_guests_thread_when_others_have_been_flushed_has_time_too():
    """Sixty-four requests are told without the thread that flushes, which may be through by then."""
    late = Flushed()
    boundary._told((late,))
    with late.condition:
        assert late.condition.wait_for(lambda: late.flushes, 10)


def test_who_has_no_requests_is_left_alone():
    busy, idle = Flushed(), Flushed()
    observed(saying(), idle)
    call(observed(saying(), busy))
    flush()
    assert (busy.flushes, idle.flushes) == (1, 0)


def test_what_a_parent_had_is_not_told_again_by_its_child():
    """And its own first request is told, though the parent's had woken whoever tells."""
    observer = Flushed()
    app = observed(saying(), observer)
    call(app)
    child = os.fork()
    if child == 0:
        call(app)
        flush()
        os._exit((observer.told, observer.flushes) != (1, 1))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    flush()
    assert (observer.told, observer.flushes) == (1, 1)
