"""Domain errors to what a guest reads: status, body, headers (W-18).

Nothing in a body tells about networks, routers, ports, other instances or hosts;
the request id joins it to the log line that does.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, ClassVar

from webob import Request, Response

from mdmw import errors, wire
from mdmw.observe.journal import note_error
from mdmw.observe.series import Measurement
from mdmw.records import JOURNAL, SOURCE, Environ

LOG = logging.getLogger(__name__)

StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_BAD = "The request is malformed or not allowed."
_SENTENCES: tuple[tuple[type[Exception], int, str], ...] = (
    # The first class that fits decides, so the special ones come first.
    (errors.TargetTooLong, 414, "The request target is too long."),
    (errors.HeadersTooLarge, 431, "The request headers are too large."),
    (errors.BodyTooLarge, 413, "The request body is too large."),
    (errors.LengthRequired, 411, "The request body needs a Content-Length."),
    (errors.RequestTimeout, 408, "The request was not complete in time."),
    (errors.MethodNotAllowed, 405, "The method is not allowed here."),
    (errors.BadRequest, 400, _BAD),
    (errors.NotIdentified, 404, "No instance was identified for this address."),
    (errors.NotFound, 404, "There is nothing at this path."),
    (errors.Conflict, 409, "This has been set already."),
    (errors.Unauthorized, 401, "A valid session token is needed."),
    (errors.Forbidden, 403, "This is not allowed for a forwarded request."),
    (errors.Refused, 403, "The metadata service refused this request."),
    (errors.BackendSlow, 504, "The metadata service did not answer in time."),
    (errors.BackendLost, 502, "The metadata service went away during the request."),
    (errors.BackendError, 502, "The metadata service gave no usable answer."),
    (errors.Overloaded, 503, "Too many requests are waiting; please try again."),
    (errors.Unavailable, 503, "The metadata service is not available; please try again."),
)
_UNEXPECTED = "The request could not be processed."
_OF_STATUS = {
    500: "The metadata service failed.",
    502: "The metadata service gave no usable answer.",
    503: "The metadata service is not available; please try again.",
    504: "The metadata service did not answer in time.",
}


def answer(error: Exception, environ: Environ) -> Response:
    """The answer to an error, after logging it with its request id.

    What the guest did wrong is logged at INFO, a fault of the service or of a hop at WARNING,
    a refused proof at ERROR; an exception nobody meant to raise becomes a 500.
    """
    request_id = note_error(environ, error)
    known = next((row for row in _SENTENCES if isinstance(error, row[0])), None)
    if known is None:
        LOG.error("%s %s: unexpected", request_id, _describe(environ), exc_info=error)
        return _page(environ, 500, _UNEXPECTED, request_id)
    _, status, sentence = known
    LOG.log(
        _level(error, status),
        "%s %s: %d: %s",
        request_id,
        _describe(environ),
        status,
        wire.one_line(str(error)),
    )
    response = _page(environ, status, sentence, request_id)
    if isinstance(error, errors.Unavailable):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allow)
    return response


def of_status(status: int, retry_after: str | None, log_text: str, environ: Environ) -> Response:
    """The generic answer that stands for an upstream's own error page; a 503 says when to retry."""
    request_id = note_error(environ, errors.BackendError(log_text))
    LOG.warning("%s %s: %d: %s", request_id, _describe(environ), status, log_text)
    response = _page(environ, status, _OF_STATUS.get(status, _OF_STATUS[500]), request_id)
    if retry_after or status == 503:
        response.headers["Retry-After"] = retry_after or "1"
    return response


def _level(error: Exception, status: int) -> int:
    if isinstance(error, errors.Refused):
        return logging.ERROR
    is_warning = status >= 500 or isinstance(error, errors.Contradiction)
    return logging.WARNING if is_warning else logging.INFO


def _page(environ: Environ, status: int, sentence: str, request_id: str) -> Response:
    environ.setdefault("REQUEST_METHOD", "GET")  # uWSGI has none for a line it could not parse
    line = f"{status} {_phrase(status)}"
    if _prefers_json(environ):
        page = {"status": status, "title": line, "detail": sentence, "request_id": request_id}
        response = Response(json.dumps(page), content_type="application/json", charset="UTF-8")
    else:
        text = f"{line}\n\n{sentence}\n{request_id}\n"
        response = Response(text, content_type="text/plain", charset="UTF-8")
    response.status = line
    response.headers[wire.REQUEST_ID] = request_id
    return response


def _prefers_json(environ: Environ) -> bool:
    if not environ.get("HTTP_ACCEPT"):
        return False
    offers = Request(environ).accept.acceptable_offers(["text/plain", "application/json"])
    return bool(offers) and offers[0][0] == "application/json"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _describe(environ: Environ) -> str:
    source = environ.get(SOURCE) or environ.get("REMOTE_ADDR") or "a local peer"
    return wire.one_line(f"{source}: {environ.get('REQUEST_METHOD', '?')!s:.20}")


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
        self.app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            self.prepare(environ)
        except Exception as error:
            return answer(error, environ)(environ, start_response)
        finally:
            if (journal := environ.get(JOURNAL)) is not None:
                journal.ended(self.stage)
        return self.app(environ, start_response)

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
        #: The two applications that a request may go to; see `chain`.
        self.branches = (terminal, app)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return (self._terminal if self._key in environ else self._app)(environ, start_response)


# --- what a pipeline can tell -----------------------------------------------------------------------------

# How filters call the application behind them: ours, most others, keystonemiddleware.
_NEXT = ("app", "application", "_app")


def chain(app: Any) -> Iterator[Any]:
    """The stages of a pipeline from `app` on, in the order of a request.

    A stage names the application behind it as `app` or `application`, or several as `branches`. What stands
    behind a filter that hides its application is not found.
    """
    waiting = [app]
    while waiting:
        stage = waiting.pop()
        yield stage
        branches = getattr(stage, "branches", None)
        if branches is None:
            branches = [one for one in (getattr(stage, name, None) for name in _NEXT) if callable(one)][:1]
        waiting.extend(reversed(branches))


def checks_of(app: Any) -> dict[str, Callable[[], str]]:
    """What the stages from `app` on say can be checked, by name; of two with one name the second is `NAME.2`.

    A stage has them as `checks`: functions that say in a few words what is right, or raise `MdmwError`.
    """
    found: dict[str, Callable[[], str]] = {}
    for stage in chain(app):
        for name, look in getattr(stage, "checks", {}).items():
            number = 1
            unique = name
            while unique in found:
                number += 1
                unique = f"{name}.{number}"
            found[unique] = look
    return found


def questions_of(app: Any) -> dict[str, Callable[..., Any]]:
    """The questions that the stages from `app` on answer, by name; of two with one name the first counts.

    A stage has them as `questions`: functions that take arguments by name and give what JSON can say.
    """
    found: dict[str, Callable[..., Any]] = {}
    for stage in chain(app):
        found = {**getattr(stage, "questions", {}), **found}
    return found


def measurements_of(app: Any) -> Iterator[Measurement]:
    """What the stages from `app` on measure now. A stage has a method `measurements` for that."""
    for stage in chain(app):
        if (measurements := getattr(stage, "measurements", None)) is not None:
            yield from measurements()
