"""What observing filters share: one journal for each request, handed to all of them when it is over."""

import atexit
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from time import perf_counter, time
from typing import Any

from mdmw.boundary.base import App, StartResponse
from mdmw.observe.batch import Batch, Losses
from mdmw.observe.journal import Journal, Observer, here
from mdmw.records import INSTANCE, JOURNAL, SOURCE, Environ
from mdmw.wire import REQUEST_ID

_STATUS_DIGITS = 3
_ID_NAME = REQUEST_ID.lower()
_ID_LENGTH = len(REQUEST_ID)


class Observed:
    """The filter form of an observer. The outermost one of a pipeline keeps the journal for all.

    Each answer has the request id then, in `X-Openstack-Request-Id`.
    """

    def __init__(self, app: App, observer: Observer) -> None:
        self._app = app
        self._observers: tuple[Observer, ...] = (observer,)
        if isinstance(app, Observed):  # side by side they cost as much as one
            self._app = app._app
            self._observers += app._observers
        # Again and again the last that is registered, so that observers with batches of their own end later.
        atexit.unregister(flush)
        atexit.register(flush)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        place = here()
        if place.journal is not None:
            place.journal.observers += self._observers
            return self._app(environ, start_response)
        # What follows is done for each request while others wait for the interpreter, and seldom finds
        # anything in the processor's caches: each call, each object counts.
        target = environ.get("REQUEST_URI") or environ.get("RAW_URI") or environ.get("PATH_INFO", "")
        journal = environ[JOURNAL] = place.journal = Journal(environ.get("REQUEST_METHOD", ""), target)
        journal.observers = self._observers

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., Any]:
            journal.status = _number(status)
            for name, _ in headers:
                if len(name) == _ID_LENGTH and name.lower() == _ID_NAME:
                    break
            else:
                headers = [*headers, (REQUEST_ID, journal.request_id)]
            write: Callable[..., Any] = (
                start_response(status, headers, exc_info) if exc_info else start_response(status, headers)
            )
            return write

        try:
            body = self._app(environ, start)
        except BaseException as error:
            journal.error = type(error).__name__
            _take_records(journal, environ)
            _end(journal)
            raise
        finally:
            place.journal = None
        _take_records(journal, environ)
        if not isinstance(body, list):
            return _Counted(body, journal)
        journal.sent = len(body[0]) if len(body) == 1 else sum(map(len, body))
        _end(journal)
        return body


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
                _end(self._journal)


def _take_records(journal: Journal, environ: Environ) -> None:
    journal.peer = environ.get("REMOTE_ADDR") or ""  # hmac-verify puts the guest's here
    journal.source = environ.get(SOURCE)
    journal.instance = environ.get(INSTANCE)


@lru_cache(maxsize=256)
def _number(status: str) -> int:
    return int(status[:_STATUS_DIGITS])


def _end(journal: Journal) -> None:
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


_OVER = Batch(_tell)
