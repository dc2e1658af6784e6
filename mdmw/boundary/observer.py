"""What observing filters share: a journal for each request, and a thread in which observers have time."""

import atexit
import os
from collections.abc import Iterable, Iterator
from weakref import WeakSet

from mdmw.boundary.base import App
from mdmw.observe.batch import Soon
from mdmw.observe.recording import Journal, Observer, Recording, Waiting


class Observed(Recording):
    """The filter form of an observer. The outermost one of a pipeline keeps the journal for all.

    Each answer has the request id then, in `X-Openstack-Request-Id`.
    """

    def __init__(self, app: App, observer: Observer) -> None:
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
