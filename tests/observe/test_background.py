"""Batches: in order, bounded, whatever the handler does, in each process, and at its end."""

import errno
import logging
import os
import subprocess
import sys
import threading

import pytest

from mdmw.observe.background import Batch

PATIENCE = 10.0


class Handler:
    """Keeps what it gets; `fail` makes it raise, `hold` makes it wait."""

    def __init__(self):
        self.items = []
        self.calls = 0
        self.fail = None
        self.condition = threading.Condition()
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, items):
        with self.condition:
            self.calls += 1
            self.condition.notify_all()
        assert self.hold.wait(PATIENCE)
        if self.fail:
            raise self.fail
        with self.condition:
            self.items += items
            self.condition.notify_all()

    def wait(self, holds):
        with self.condition:
            assert self.condition.wait_for(lambda: holds(self), PATIENCE)


@pytest.fixture
def handler():
    made = Handler()
    yield made
    made.hold.set()


def test_items_come_in_order_and_together(handler):
    made = Batch(handler, "test")
    for number in range(1000):
        made.add([number])
    handler.wait(lambda h: len(h.items) == 1000)
    assert handler.items == list(range(1000))
    assert handler.calls < 100


def test_nothing_waits_for_more_than_a_moment(handler):
    """A second item comes out as the first did."""
    made = Batch(handler, "test")
    for number in range(3):
        made.add([number])
        handler.wait(lambda h, n=number: h.items[-1:] == [n])


def test_flush_handles_what_there_is_now(handler):
    made = Batch(handler, "test")
    made.add([1])
    made.flush()
    assert handler.items == [1]
    made.flush()
    assert handler.calls == 1


def test_a_stuck_handler_fills_no_memory(handler, caplog):
    handler.hold.clear()
    made = Batch(handler, "test", most=10)
    made.add(["first"])
    handler.wait(lambda h: h.calls == 1)
    for number in range(25):
        made.add([number])
    handler.hold.set()
    handler.wait(lambda h: len(h.items) == 11)
    made.flush()
    assert handler.items == ["first", *range(10)]
    assert "15 records of requests are lost: they came faster than they could be handled" in caplog.text


def test_what_cannot_be_written_is_lost_and_said_seldom(handler, caplog):
    made = Batch(handler, "test")
    handler.fail = OSError(errno.ENOSPC, "No space left on device")
    for number in range(3):
        made.add([number])
        made.flush()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["1 records of requests are lost: No space left on device (said once a minute)"]
    handler.fail = None
    made.add(["after"])
    made.flush()
    assert handler.items == ["after"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_of_the_handler_is_not_the_end(handler):
    made = Batch(handler, "test")
    handler.fail = ZeroDivisionError()
    made.add([1])
    handler.wait(lambda h: h.calls == 1)
    made._background._thread.join(PATIENCE)
    handler.fail = None
    made.add([2])
    handler.wait(lambda h: h.items == [2])


def test_when_there_are_no_more_threads_the_next_item_tries_again(handler, monkeypatch):
    """No guest's request fails because of it."""

    def start(thread):
        raise RuntimeError("can't start new thread")

    made = Batch(handler, "test")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        made.add([1])
    made.add([2])
    handler.wait(lambda h: h.items == [1, 2])


def test_a_forked_child_has_its_own(handler):
    """Threads do not come along, and what waits is the parent's."""
    made = Batch(handler, "test")
    handler.hold.clear()
    made.add(["the parent's"])
    handler.wait(lambda h: h.calls == 1)  # its thread holds the lock now
    made.add(["the parent's second"])
    child = os.fork()
    if child == 0:
        handler.hold.set()
        made.add(["the child's"])
        handler.wait(lambda h: len(h.items) == 1)
        os._exit(handler.items != ["the child's"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    handler.hold.set()
    handler.wait(lambda h: len(h.items) == 2)
    assert handler.items == ["the parent's", "the parent's second"]


_SCRIPT = """
import atexit, os, sys
{patch}
from mdmw.observe.background import Batch
made = Batch(lambda items: print(*items, flush=True), "test")
atexit.register(made.close)
made.add(["parent"])
if os.fork() == 0:
    made.add(["child"])
    sys.exit()
os.wait()
"""


@pytest.mark.parametrize(
    "patch", ["", "from gevent import monkey; monkey.patch_all()"], ids=["threads", "gevent"]
)
def test_a_process_that_ends_hands_over_what_it_has(patch):
    """At once: it does not live for a quarter of a second."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore:This process", "-c", _SCRIPT.format(patch=patch)],  # it has a thread
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.split() == ["child", "parent"]
    assert done.stderr == ""
