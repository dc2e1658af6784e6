"""What observing filters share: one journal for each request, handed to all of them when it is over."""

import atexit
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from time import perf_counter, time

from mdmw.boundary.base import App
from mdmw.observe.batch import Batch, Losses
from mdmw.observe.recording import Journal, Observer, Recording

_LONGEST_TARGET = 500  # of those that observers keep


class Observed(Recording):
    """The filter form of an observer. The outermost one of a pipeline keeps the journal for all.

    Each answer has the request id then, in `X-Openstack-Request-Id`.
    """

    def __init__(self, app: App, observer: Observer) -> None:
        if isinstance(app, Observed):  # side by side they cost as much as one
            super().__init__(app.app, (observer, *app.observers), _OVER.add)
        else:
            super().__init__(app, (observer,), _OVER.add)
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
                journal = self._journal
                journal.seconds = perf_counter() - journal.began
                _OVER.add(journal)


# --- when they are over -----------------------------------------------------------------

_losses: defaultdict[Observer, Losses] = defaultdict(Losses)


def flush() -> None:
    """Have all observers told of the requests that are over, now."""
    _OVER.flush()


def _tell(journals: Sequence[Journal]) -> None:
    epoch = perf_counter() - time()
    for journal in journals:
        journal.close(epoch)
    for observers, some in groupby(journals, attrgetter("observers")):
        together = list(some)
        for observer in observers:
            try:
                observer.over(together)
            except OSError as error:
                _losses[observer].number += len(together)
                _losses[observer].say(error.strerror or str(error))
    for journal in journals:
        if len(journal.target) > _LONGEST_TARGET:
            journal.target = journal.target[:_LONGEST_TARGET]


_OVER = Batch(_tell)
