"""What observing filters share: a journal for each request, and a thread in which observers have time."""

import atexit
import os
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from weakref import WeakSet

from mdmw.boundary.base import App
from mdmw.observe.batch import Soon
from mdmw.observe.recording import Bell, Journal, Observer, Recording


class Observed(Recording):
    """The filter form of an observer. The outermost one of a pipeline keeps the journal for all.

    Each answer has the request id then, in `X-Openstack-Request-Id`.
    """

    def __init__(self, app: App, observer: Observer) -> None:
        self.told: tuple[Observer, ...] = (observer,)
        if isinstance(app, Observed):  # side by side they cost as much as one
            self.told += app.told
            app = app.app
        bell = Bell(partial(_have_flushed, self.told))
        super().__init__(app, (*(one.over for one in self.told), bell.over))
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
                self._journal.over()


# --- a moment after they are over ---------------------------------------------------------

_all: WeakSet[Observer] = WeakSet()
_rung: deque[tuple[Bell, tuple[Observer, ...]]] = deque()


def flush() -> None:
    """Have all observers make what they make of the requests that are over, now."""
    _SOON.flush()


def _have_flushed(observers: tuple[Observer, ...], bell: Bell) -> None:
    _rung.append((bell, observers))
    _SOON.ask()


def _flush() -> None:
    due: dict[Observer, None] = {}
    while _rung:
        bell, observers = _rung[0]
        bell.is_rung = False  # who is over from now on may come too late for this time
        _rung.popleft()
        due |= dict.fromkeys(observers)
    for observer in due:
        observer.flush()


def _forget() -> None:
    """In a forked child."""
    for bell, _ in _rung:
        bell.is_rung = False
    _rung.clear()
    for observer in _all:
        observer.forget()


_SOON = Soon(_flush)
os.register_at_fork(after_in_child=_forget)
