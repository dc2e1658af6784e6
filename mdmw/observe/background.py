"""Work that no guest waits for: a thread does the work a moment after somebody asked for it."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

LOG = logging.getLogger(__name__)

_PAUSE = 0.25  # seconds between the first asking and the work
_MOST = 20_000  # items that wait; a handler that is stuck must not fill the memory
_LAST_WORK = 2.0  # seconds that the end of a process waits for the last work
_ONCE_IN = 60.0  # seconds

Item = TypeVar("Item")


class OncePerMinute:
    """Says whether a log line that would come with every request is due: at first, and once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[Hashable, float] = {}

    def due(self, subject: Hashable) -> bool:
        """Whether a line about `subject` is due now; if so, the next one is due in a minute."""
        now = self._clock()
        said = self._said.get(subject)
        if said is not None and now - said < _ONCE_IN:
            return False
        recent = {key: at for key, at in self._said.copy().items() if now - at < _ONCE_IN}
        self._said = recent | {subject: now}
        return True


class Losses:
    """Counts the records of requests that are lost, and says so once a minute."""

    def __init__(self) -> None:
        self.number = 0
        self._lines = OncePerMinute()

    @contextmanager
    def counted(self, number: int) -> Iterator[None]:
        """`number` records are lost if the block raises OSError."""
        try:
            yield
        except OSError as error:
            self.number += number
            self._say(error.strerror or str(error))
        else:
            self._say("they came faster than they could be handled")

    def _say(self, why: str) -> None:
        if self.number and self._lines.due(self):
            LOG.warning("%d records of requests are lost: %s (said once a minute)", self.number, why)
            self.number = 0


class Background:
    """Calls `work` in a thread of its own a moment after `ask`, and at least every `every` seconds if given.

    The thread (under gevent: a greenlet) is started when it is first needed in each process, so a server
    may fork as it likes. If no thread can be started, the next `ask` tries again. A defect of `work` ends
    the thread, until the next `ask`.
    """

    _thread: threading.Thread | None
    _is_due: bool
    _pid: int

    def __init__(self, work: Callable[[], None], name: str, every: float | None = None) -> None:
        self._work = work
        self._name = name
        self._every = every
        self._begin()

    def ask(self) -> None:
        """Have the work done soon. Never waits."""
        if not self._is_due or self._pid != os.getpid():
            self._wake()

    def run(self) -> None:
        """Do the work now, in this thread."""
        if self._pid != os.getpid():
            self._begin()
        with self._working:
            self._work()

    def close(self, patience: float = _LAST_WORK) -> None:
        """Do what is still due, and end the thread; waits `patience` seconds at most.

        Whatever the work waits for (a pipe that nobody reads), the process can end.
        """
        if self._pid != os.getpid():
            return
        self._is_closed = True
        thread = self._thread
        if thread is threading.current_thread():
            return  # the work itself is the last work
        if thread is not None and thread.is_alive():
            self._wanted.set()
            thread.join(patience)
        if self._is_due and self._working.acquire(blocking=False):  # the server runs no thread any more
            try:
                self._is_due = False
                self._work()
            finally:
                self._working.release()

    def _wake(self) -> None:
        if self._pid != os.getpid():
            self._begin()
        with self._starting:
            self._is_due = True
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, args=[self._wanted], name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads now
                    self._is_due = False
                    return
                self._thread = thread
            self._wanted.set()

    def _run(self, wanted: threading.Event) -> None:
        pause = threading.Event()
        while True:
            if wanted.wait(self._every) and not self._is_closed:
                pause.wait(_PAUSE)
            if wanted is not self._wanted:
                pause.wait()  # the parent's greenlet, which gevent keeps in a forked child, must not end
            wanted.clear()
            is_last = self._is_closed
            self._is_due = False
            with self._working:
                self._work()
            if is_last or (self._is_closed and not self._is_due):
                return

    def _begin(self) -> None:
        """At first, and in a forked child: threads do not come along, and locks may be held there."""
        self._pid = os.getpid()
        self._working = threading.Lock()
        self._starting = threading.Lock()
        self._wanted = threading.Event()
        self._is_due = False  # as `_wanted`, which is slower to ask
        self._is_closed = False
        self._thread = None


class Batch(Generic[Item]):
    """Hands items to `handle` in order, some at a time, in a thread of its own.

    `handle` may raise OSError: the items are lost, and a line in the log says so. In a forked child there
    are no items, since those that wait are the parent's.
    """

    def __init__(self, handle: Callable[[Sequence[Item]], None], name: str, most: int = _MOST) -> None:
        self._handle = handle
        self._most = most
        self._losses = Losses()
        self._begin()
        self._background = Background(self._handle_all, name)
        self.flush = self._background.run
        self.close = self._background.close

    def add(self, items: Sequence[Item]) -> None:
        """Take items, which are lost if too many wait already. Never waits."""
        if self._pid != os.getpid():
            self._begin()
        room = self._most - len(self._items)
        self._items.extend(items[: max(room, 0)])
        self._losses.number += max(len(items) - room, 0)
        self._background.ask()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._items: deque[Item] = deque()

    def _handle_all(self) -> None:
        if self._pid != os.getpid():
            return
        items = [self._items.popleft() for _ in range(len(self._items))]
        if items:
            with self._losses.counted(len(items)):
                self._handle(items)
