"""Work that no guest waits for: items are collected, and handled together a few times a second."""

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
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

    def say(self, why: str) -> None:
        """Say how many there are, if there are any."""
        if self.number and self._seldom.due(self):
            LOG.warning("%d records of requests are lost: %s (said once a minute)", self.number, why)
            self.number = 0


class Batch(Generic[Item]):
    """Hands items to `handle`, in order, in a thread of its own.

    The thread (under gevent: a greenlet) is started by the first item of each process, so a
    server may fork as it likes. `handle` may raise OSError: the items are lost, and a line says so.
    """

    _thread: threading.Thread | None

    def __init__(self, handle: Callable[[Sequence[Item]], None]) -> None:
        self._handle = handle
        self._losses = Losses()
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        atexit.register(self.flush)

    def add(self, item: Item) -> None:
        """Never waits."""
        items = self._items
        if len(items) < _MOST:
            items.append(item)
        else:
            self._losses.number += 1
        if not self._is_due:
            self._wake()

    def flush(self) -> None:
        """Handle what there is, now."""
        with self._handling:
            take = self._items.popleft
            items = [take() for _ in range(len(self._items))]
            if items:
                self._try(items)

    def _wake(self) -> None:
        with self._starting:
            self._is_due = True
            self._wanted.set()
            if self._thread is None or not self._thread.is_alive():  # a defect of the handler ends it
                self._thread = threading.Thread(target=self._run, name="mdmw-batch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._wanted.wait()
            pause.wait(_EVERY)
            self._wanted.clear()
            self._is_due = False
            self.flush()

    def _try(self, items: Sequence[Item]) -> None:
        try:
            self._handle(items)
        except OSError as error:
            self._losses.number += len(items)
            self._losses.say(error.strerror or str(error))
        else:
            self._losses.say("they came faster than they could be handled")

    def _begin(self) -> None:
        """Also in a forked child: what waits is the parent's, and threads do not come along."""
        self._items: deque[Item] = deque()
        self._handling = threading.Lock()
        self._starting = threading.Lock()
        self._wanted = threading.Event()
        self._is_due = False  # as `_wanted`, which is slower to ask
        self._thread = None
