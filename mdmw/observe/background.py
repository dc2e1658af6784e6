"""Log lines that would repeat with every request, said once a minute."""

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from mdmw.observe.journal import Journal, Observer, Recording, Waiting

_INTERVAL = 60.0


class Seldom:
    """Says of each thing whether it is due again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[Hashable, float] = {}

    def due(self, thing: Hashable) -> bool:
        """True the first time, and then once a minute."""
        now = self._clock()
        said = self._said.get(thing)
        if said is not None and now - said < _INTERVAL:
            return False
        self._said = {key: at for key, at in self._said.copy().items() if now - at < _INTERVAL} | {thing: now}
        return True


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


class Observed(Recording):
    """The filter form of an observer. The outermost one of a pipeline keeps the journal for all.

    Each answer has the request id then, in `X-Openstack-Request-Id`.
    """

    def __init__(self, app: Callable[..., Any], observer: Observer) -> None:
        if isinstance(app, Observed):  # side by side they cost as much as one
            super().__init__(app.app, (observer, *app.observers), _WAITING.add)
        else:
            super().__init__(app, (observer,), _WAITING.add)
        _all.add(observer)
        # Again and again the last that is registered, so that observers with batches of their own end later.
        atexit.unregister(flush)
        atexit.register(flush)

    def stream(self, body: Iterable[bytes], journal: Journal) -> Iterable[bytes]:
        """As `Recording`."""
        return _Counted(body, journal)


class _Counted:
    """A body on its way; the request is over when the server closes it."""

    def __init__(self, body: Iterable[bytes], journal: Journal) -> None:
        self._body = body
        self._journal = journal
        self._is_over = False

    def __iter__(self) -> Iterator[bytes]:
        journal = self._journal
        try:
            for piece in self._body:
                journal.sent += len(piece)
                yield piece
        except Exception as error:
            journal.error = type(error).__name__
            raise

    def close(self) -> None:
        try:
            if (close := getattr(self._body, "close", None)) is not None:
                close()
        finally:
            if not self._is_over:
                self._is_over = True
                self._journal.close()
                _WAITING.add(self._journal)


# --- a moment after they are over ---------------------------------------------------------

_all: WeakSet[Observer] = WeakSet()
_due: dict[Observer, None] = {}  # who was told of something, and had no time since


def flush() -> None:
    """Have all observers told of the requests that are over, and make what they make of them, now."""
    _SOON.flush()


def _flush() -> None:
    _WAITING.tell()
    for observer in list(_due):
        del _due[observer]
        observer.flush()


def _told(observers: tuple[Observer, ...]) -> None:
    _due.update(dict.fromkeys(observers))
    _SOON.ask()  # they may be told by a guest's thread, when the others have been flushed already


def _forget() -> None:
    """In a forked child."""
    _WAITING.forget()
    _due.clear()
    for observer in _all:
        observer.forget()


_SOON = Soon(_flush)
_WAITING = Waiting(_SOON.ask, _told)
os.register_at_fork(after_in_child=_forget)
