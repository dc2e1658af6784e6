"""Work that no guest waits for: it is done a few times a second, for all requests since the last time."""

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from mdmw.observe.seldom import Seldom

LOG = logging.getLogger(__name__)

_EVERY = 0.25  # seconds
_MOST = 20_000  # items that wait; a handler that is stuck must not fill the memory

Item = TypeVar("Item")


class Losses:
    """Records that are lost, said once a minute."""

    def __init__(self) -> None:
        self.number = 0
        self._seldom = Seldom()

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """So many are lost if what is done with them raises OSError."""
        try:
            yield
        except OSError as error:
            self.number += number
            self._say(error.strerror or str(error))
        else:
            self._say("they came faster than they could be handled")

    def _say(self, why: str) -> None:
        if self.number and self._seldom.due(self):
            LOG.warning("%d records of requests are lost: %s (said once a minute)", self.number, why)
            self.number = 0


class Soon:
    """Calls `handle` a moment after it was asked to, in a thread of its own, and when the process ends.

    The thread (under gevent: a greenlet) is started when it is first needed in each process, so a server
    may fork as it likes. A defect of `handle` ends it, until the next time.
    """

    _thread: threading.Thread | None

    def __init__(self, handle: Callable[[], None]) -> None:
        self._handle = handle
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        atexit.register(self.flush)

    def ask(self) -> None:
        """Never waits."""
        if not self._is_due:
            self._wake()

    def flush(self) -> None:
        """Do it now."""
        with self._handling:
            self._handle()

    def _wake(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="mdmw-batch", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads now; whoever asks next tries again
                    return
                self._thread = thread
            self._is_due = True
            self._wanted.set()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._wanted.wait()
            pause.wait(_EVERY)
            self._wanted.clear()
            self._is_due = False
            self.flush()

    def _begin(self) -> None:
        """Also in a forked child: threads do not come along."""
        self._handling = threading.Lock()
        self._starting = threading.Lock()
        self._wanted = threading.Event()
        self._is_due = False  # as `_wanted`, which is slower to ask
        self._thread = None


class Batch(Generic[Item]):
    """Hands items to `handle`, in order, some at a time; each process its own.

    `handle` may raise OSError: the items are lost, and a line says so.
    """

    def __init__(self, handle: Callable[[Sequence[Item]], None]) -> None:
        self._handle = handle
        self._losses = Losses()
        self._items: deque[Item] = deque()
        os.register_at_fork(after_in_child=self._items.clear)
        self._soon = Soon(self._handle_all)
        self.flush = self._soon.flush

    def add(self, item: Item) -> None:
        """Never waits."""
        if len(self._items) < _MOST:
            self._items.append(item)
        else:
            self._losses.number += 1
        self._soon.ask()

    def _handle_all(self) -> None:
        items = [self._items.popleft() for _ in range(len(self._items))]
        if items:
            with self._losses.of(len(items)):
                self._handle(items)
