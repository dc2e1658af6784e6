"""What observing filters share: one journal for each request, handed to all of them when it is over."""

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any

from mdmw.boundary.base import App, StartResponse
from mdmw.observe.journal import Journal, Observer, current, enter, leave
from mdmw.records import INSTANCE, SOURCE, Environ
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
        self._observer = observer

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        journal = current()
        if journal is not None:
            journal.observers.append(self._observer)
            return self._app(environ, start_response)
        return self._keep_journal(environ, start_response)

    def _keep_journal(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        target = environ.get("REQUEST_URI") or environ.get("RAW_URI") or environ.get("PATH_INFO", "")
        journal = Journal(environ.get("REQUEST_METHOD", ""), target, environ.get("REMOTE_ADDR") or "")
        journal.observers.append(self._observer)

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[..., Any]:
            journal.status = int(status[:_STATUS_DIGITS])
            for name, _ in headers:
                if len(name) == _ID_LENGTH and name.lower() == _ID_NAME:
                    break
            else:
                headers = [*headers, (REQUEST_ID, journal.request_id)]
            write: Callable[..., Any] = start_response(status, headers, *exc_info)
            return write

        token = enter(journal)
        try:
            body = self._app(environ, start)
        except BaseException as error:
            journal.error = type(error).__name__
            _take_records(journal, environ)
            _end(journal)
            raise
        finally:
            leave(token)
        _take_records(journal, environ)
        if isinstance(body, list):
            journal.sent = sum(map(len, body))
            _end(journal)
            return body
        return _Counted(body, journal)


class _Counted:
    """A body on its way; the request is over when the server closes it."""

    def __init__(self, body: Iterable[bytes], journal: Journal) -> None:
        self._body = body
        self._journal = journal

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
            _end(self._journal)


def _take_records(journal: Journal, environ: Environ) -> None:
    journal.peer = environ.get("REMOTE_ADDR") or ""  # hmac-verify puts the guest's here
    journal.source = environ.get(SOURCE)
    journal.instance = environ.get(INSTANCE)


def _end(journal: Journal) -> None:
    journal.seconds = perf_counter() - journal.began
    for observer in journal.observers:
        observer.over(journal)
    journal.observers.clear()  # once, however often the server closes
