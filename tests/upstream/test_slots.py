"""Slots: a bound on requests under way and on those that wait (overload, spec 1.6)."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import PATIENCE

from mdmw.errors import Overloaded
from mdmw.upstream.exchange import Slots


def free(slots, most=100):
    """How many slots can be taken at once; gives them back."""
    taken = 0
    while taken < most:
        try:
            slots.acquire(0)
        except Overloaded:
            break
        taken += 1
    for _ in range(taken):
        slots.release()
    return taken


class Waiter(threading.Thread):
    """Acquires in a thread; `entered` is set when it has the slot."""

    def __init__(self, slots, timeout, log=None, name=None):
        super().__init__(daemon=True)
        self.slots, self.timeout, self.log, self.label = slots, timeout, log, name
        self.entered = threading.Event()
        self.refused = threading.Event()
        self.start()

    def run(self):
        try:
            self.slots.acquire(self.timeout)
        except Overloaded:
            self.refused.set()
        else:
            if self.log is not None:
                self.log.append(self.label)
            self.entered.set()


def queue_up(slots, count, log=None):
    """`count` waiters, of which each is in the queue before the next comes."""
    waiters = []
    for number in range(count):
        waiters.append(Waiter(slots, PATIENCE, log, number))
        until(lambda: len(slots._waiting) == len(waiters))
    return waiters


def until(holds):
    for _ in range(int(PATIENCE / 0.002)):
        if holds():
            return
        threading.Event().wait(0.002)
    pytest.fail("never came true")


def test_as_many_as_there_are():
    assert free(Slots(3, 0)) == 3


def test_without_a_queue_the_next_is_refused_at_once():
    slots = Slots(1, 0)
    slots.acquire(PATIENCE)
    with pytest.raises(Overloaded):
        slots.acquire(PATIENCE)


def test_waiting_ends_with_a_refusal():
    slots = Slots(1, 1)
    slots.acquire(0)
    with pytest.raises(Overloaded):
        slots.acquire(0.02)
    slots.release()
    assert free(slots) == 1


def test_who_gave_up_waiting_leaves_the_queue():
    slots = Slots(1, 1)
    slots.acquire(0)
    for _ in range(5):
        with pytest.raises(Overloaded, match="no slot became free"):
            slots.acquire(0.001)


def test_first_come_first_served():
    slots = Slots(1, 10)
    slots.acquire(0)
    order = []
    waiters = queue_up(slots, 5, order)
    for waiter in waiters:
        slots.release()
        assert waiter.entered.wait(PATIENCE)
    assert order == [0, 1, 2, 3, 4]


def test_nobody_overtakes_the_queue():
    """A slot that is given back while somebody waits is handed over, never up for grabs."""
    slots = Slots(1, 10)
    slots.acquire(0)
    (waiter,) = queue_up(slots, 1)
    slots.release()
    with pytest.raises(Overloaded):
        slots.acquire(0)
    assert waiter.entered.wait(PATIENCE)


def test_a_slot_handed_over_in_the_moment_of_giving_up_is_kept():
    """The race between timeout and hand-over: the waiter takes what it was given."""
    slots = Slots(1, 1)
    slots.acquire(0)

    class LateLock:
        """Stands for the lock of `Slots`: hands the slot over between the timeout and the look."""

        def __init__(self, lock):
            self.lock, self.entries = lock, 0

        def __enter__(self):
            self.entries += 1
            if self.entries == 2:
                slots._lock = self.lock
                slots.release()
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    slots._lock = LateLock(slots._lock)
    slots.acquire(0.001)
    assert free(slots) == 0
    slots.release()
    assert free(slots) == 1


def test_a_waiter_that_is_killed_leaves_the_queue():
    """Greenlets are killed, and timed out, by exceptions that come out of the wait."""
    slots = Slots(1, 5)
    slots.acquire(0)

    class Killed(BaseException):
        pass

    class KillingLock:
        def acquire(self, timeout=-1):
            if timeout != -1:
                raise Killed
            return True

        def release(self):
            pass

    from mdmw.upstream import exchange as module

    real = module.threading.Lock
    module.threading.Lock = KillingLock
    try:
        with pytest.raises(Killed):
            slots.acquire(PATIENCE)
    finally:
        module.threading.Lock = real
    slots.release()
    assert free(slots) == 1


@given(st.lists(st.sampled_from(["take", "give", "give up"]), max_size=60), st.integers(1, 4))
def test_the_number_of_slots_never_changes(steps, size):
    slots = Slots(size, 3)
    held = 0
    for step in steps:
        if step == "give":
            if held:
                slots.release()
                held -= 1
        elif held < size:
            slots.acquire(0)
            held += 1
        else:
            with pytest.raises(Overloaded):
                slots.acquire(0 if step == "take" else 0.0001)
    assert free(slots) == size - held


def test_a_crowd_never_exceeds_the_bound_and_leaves_all_slots():
    slots = Slots(4, 1000)
    inside, most, lock = [0], [0], threading.Lock()

    def work():
        for _ in range(50):
            try:
                slots.acquire(0.001)
            except Overloaded:
                continue
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            with lock:
                inside[0] -= 1
            slots.release()

    crowd = [threading.Thread(target=work) for _ in range(16)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(PATIENCE)
    assert most[0] <= 4
    assert free(slots) == 4
    assert not slots._waiting
