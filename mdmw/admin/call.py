"""A request to the admin API, checked against its operation, and the answers of the admin API."""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlencode

from webob import Request, Response
from webob.etag import ETagMatcher

from mdmw import errors, wire
from mdmw.admin.operations import Operation, Parameter
from mdmw.admin.policy import Operator
from mdmw.boundary.body import read_body
from mdmw.errors import BadRequest
from mdmw.observe.journal import note_error
from mdmw.records import Environ

LOG = logging.getLogger(__name__)

JSON = "application/json"
#: Most bytes of a body: room for the user data, files and vendor data of one instance.
MAX_BODY = 1024 * 1024
_MOST_DIGITS = 18

Entry = TypeVar("Entry")


class WrongType(errors.BadRequest):
    """The Content-Type of the body is not that of JSON."""


class VersionNeeded(errors.BadRequest):
    """The request changes something without If-Match, and could undo the change of another operator."""


_STATUSES: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    # The first class that matches decides, so a special class comes before a general one.
    (errors.BodyTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.LengthRequired, HTTPStatus.LENGTH_REQUIRED),
    (errors.RequestTimeout, HTTPStatus.REQUEST_TIMEOUT),
    (errors.MethodNotAllowed, HTTPStatus.METHOD_NOT_ALLOWED),
    (WrongType, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (VersionNeeded, HTTPStatus.PRECONDITION_REQUIRED),
    (errors.BadRequest, HTTPStatus.BAD_REQUEST),
    (errors.NotIdentified, HTTPStatus.NOT_FOUND),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.Outdated, HTTPStatus.PRECONDITION_FAILED),
    (errors.Conflict, HTTPStatus.CONFLICT),
    (errors.Unauthorized, HTTPStatus.UNAUTHORIZED),
    (errors.Forbidden, HTTPStatus.FORBIDDEN),
    (errors.BackendSlow, HTTPStatus.GATEWAY_TIMEOUT),
    (errors.BackendError, HTTPStatus.BAD_GATEWAY),
    (errors.Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)
_DEFECT = "mdmw has a defect; the log of the admin API has a traceback under this request id"


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets. `query` has every parameter that the request has, or that has a default.

    `target` is the path of the request without the query. `if_match` has the strong tags of If-Match, or None
    if each version may be changed.
    """

    operator: Operator
    request_id: str
    target: str
    path: Mapping[str, str]
    query: Mapping[str, Any]
    document: Any = field(repr=False)  # may contain passwords
    if_match: Collection[str] | None


def read_call(
    environ: Environ, operation: Operation, path: Mapping[str, str], operator: Operator, request_id: str
) -> Call:
    """The call of a request; raises `BadRequest` or one of its subclasses."""
    request = Request(environ)
    return Call(
        operator,
        request_id,
        request.script_name + request.path_info,
        path,
        _query(environ, operation.query),
        _document(request, operation),
        _tags(environ) if operation.versioned else None,
    )


def _tags(environ: Environ) -> Collection[str] | None:
    """The strong tags of If-Match; None for `*`."""
    given = environ.get("HTTP_IF_MATCH")
    if given is None:
        raise VersionNeeded(
            'the header If-Match is needed: the ETag of the version to be changed, or "*" for each version'
        )
    matcher = ETagMatcher.parse(given)
    return matcher.etags if isinstance(matcher, ETagMatcher) else None


def _query(environ: Environ, known: Iterable[Parameter]) -> dict[str, Any]:
    by_name = {parameter.name: parameter for parameter in known}
    try:
        given = list(Request(environ).GET.items())
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None
    values: dict[str, Any] = {p.name: p.schema["default"] for p in known if "default" in p.schema}
    seen = set()
    for name, text in given:
        if name not in by_name:
            allowed = ", ".join(by_name) or "none"
            raise BadRequest(f"query: unknown parameter {name[:40]!r}; known are: {allowed}")
        if name in seen:
            raise BadRequest(f"query: the parameter {name} is there twice")
        seen.add(name)
        values[name] = _value(by_name[name], text)
    for name, parameter in by_name.items():
        if parameter.required and name not in values:
            raise BadRequest(f"query: the parameter {name} is needed")
    return values


def _value(parameter: Parameter, text: str) -> Any:
    schema = parameter.schema
    if schema["type"] == "integer":
        least, most = schema["minimum"], schema.get("maximum", 10**_MOST_DIGITS)
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else -1
        if not least <= number <= most:
            bound = f" to {most}" if "maximum" in schema else " or more"
            raise BadRequest(f"query: {parameter.name}: a number, {least}{bound}, is allowed")
        return number
    if schema["type"] == "boolean":
        if text not in ("true", "false"):
            raise BadRequest(f"query: {parameter.name}: true or false is allowed")
        return text == "true"
    if "enum" in schema and text not in schema["enum"]:
        raise BadRequest(f"query: {parameter.name}: {', '.join(schema['enum'])} are allowed")
    if not schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text)):
        longest = schema["maxLength"]
        raise BadRequest(f"query: {parameter.name}: a text of 1 to {longest} characters is allowed")
    return text


def _document(request: Request, operation: Operation) -> Any:
    if request.method not in ("POST", "PUT"):
        return None
    body = read_body(request.environ, MAX_BODY)
    if operation.body is None:
        if body:
            raise BadRequest("this operation takes no body")
        return None
    if request.content_type != JSON or (request.charset or "utf-8").lower() != "utf-8":
        raise WrongType(f"only a body of type {JSON} is allowed")
    try:
        document = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_distinct)
        json.dumps(document, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {_reason(error)}") from None
    if not isinstance(document, dict):
        raise BadRequest("the body: only a JSON object is allowed")
    return document


def _reason(error: Exception) -> str:
    """The reason why a body is refused, without any part of the body: the body may hold a password."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, line {error.lineno} column {error.colno}"
    if isinstance(error, UnicodeError):
        return "the body is not UTF-8"
    return "objects and lists are nested too deeply" if isinstance(error, RecursionError) else str(error)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name of an object is there twice")
    return made


# --- answers ----------------------------------------------------------------------------


def reply(document: Any, status: int = 200) -> Response:
    """An answer with a document."""
    response = Response(json.dumps(document), status=status, content_type=JSON, charset="UTF-8")
    response.headers["Cache-Control"] = "no-store"  # the document may contain passwords
    return response


def refusal(error: Exception, environ: Environ, who: object) -> Response:
    """Log an error, and make the answer; an unexpected exception becomes a 500."""
    request_id = note_error(environ, error)
    who = wire.one_line(str(who))
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), None)
    if status is None:
        LOG.error("%s %s: unexpected exception", request_id, who, exc_info=error)
        return _page(HTTPStatus.INTERNAL_SERVER_ERROR, _DEFECT, request_id)
    message = wire.one_line(str(error))
    level = logging.WARNING if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO
    LOG.log(level, "%s %s: %d: %s", request_id, who, status, message)
    response = _page(status, message, request_id)
    if isinstance(error, errors.Unavailable):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allow)
    return response


def _page(status: HTTPStatus, message: str, request_id: str) -> Response:
    error = {"code": status.value, "title": status.phrase, "message": message, "request_id": request_id}
    response = reply({"error": error}, status.value)
    response.status = f"{status.value} {status.phrase}"  # webob knows other names than Python
    response.headers[wire.REQUEST_ID] = request_id
    return response


def next_page(call: Call, found: Sequence[Entry], limit: int, marker: Callable[[Entry], str]) -> str | None:
    """The path of the next page, if more than `limit` was found; `marker` gives the name of an entry."""
    if len(found) <= limit:
        return None
    return f"{call.target}?{urlencode({**call.query, 'marker': marker(found[limit - 1])})}"
