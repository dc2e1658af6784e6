"""A bounded number of slots with a bounded, fair queue in front of them."""

import threading
from collections import deque

from mdmw.errors import Overloaded
from mdmw.observe import gauges


class Slots:
    """At most `size` holders; at most `max_waiting` wait, first come first served.

    `upstream` is the name under which the gauges have them.
    """

    def __init__(self, size: int, max_waiting: int, upstream: str = "other") -> None:
        self.size = size
        self.upstream = upstream
        self._free = size
        self._max_waiting = max_waiting
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()
        gauges.watch(self)

    @property
    def in_use(self) -> int:
        """Slots that are taken."""
        return self.size - self._free

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def acquire(self, timeout: float) -> None:
        """Take a slot, waiting at most `timeout` seconds; `Overloaded` when there is none."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"all slots are taken and {self._max_waiting} requests wait already")
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            if turn.acquire(timeout=timeout):
                return
        except BaseException:  # a greenlet can be killed while it waits
            if not self._leave(turn):
                self.release()
            raise
        if self._leave(turn):
            raise Overloaded(f"no slot became free in {timeout:g} s")
        # The slot was handed over in the very moment in which the wait ended: it is ours.

    def release(self) -> None:
        """Give the slot back, or on to who has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    def _leave(self, turn: threading.Lock) -> bool:
        """Leave the queue; False when the slot was handed over already."""
        with self._lock:
            if turn not in self._waiting:
                return False
            self._waiting.remove(turn)
            return True
