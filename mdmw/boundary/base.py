"""What all filters share: the boundary at which an error becomes an answer."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from mdmw.boundary.answers import answer
from mdmw.records import JOURNAL, Environ

StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class Filter:
    """A filter does its own part in `prepare` and then calls the next application.

    Only `prepare` is guarded, and whole, since it is this filter's own code: a
    domain error or a defect ends in an answer. What the next application raises
    is its own affair.
    `requires` and `provides` name environ keys; the loader of pipelines refuses
    one in which nobody provides what a filter requires. `stage` is its name in journals.
    """

    stage: ClassVar[str] = "other"
    requires: ClassVar[frozenset[str]] = frozenset()
    provides: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            self.prepare(environ)
        except Exception as error:
            return answer(error, environ)(environ, start_response)
        finally:
            if (journal := environ.get(JOURNAL)) is not None:
                journal.ended(self.stage)
        return self._app(environ, start_response)

    def prepare(self, environ: Environ) -> None:
        """Read the request and write the records; raise a domain error to end it here."""
        raise NotImplementedError


class Terminal:
    """The end of a pipeline: makes the response itself."""

    stage: ClassVar[str] = "other"
    requires: ClassVar[frozenset[str]] = frozenset()
    provides: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            response = self.respond(environ)
        except Exception as error:
            response = answer(error, environ)
        finally:
            if (journal := environ.get(JOURNAL)) is not None:
                journal.ended(self.stage)
        return response(environ, start_response)

    def respond(self, environ: Environ) -> App:
        """The response, itself a WSGI application; raises domain errors."""
        raise NotImplementedError


class Either:
    """The filter form of a terminal: takes the requests that carry `key`, leaves the others alone."""

    def __init__(self, key: str, terminal: Terminal, app: App) -> None:
        self._key = key
        self._terminal = terminal
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return (self._terminal if self._key in environ else self._app)(environ, start_response)
