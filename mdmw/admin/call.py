"""One request of an operator, checked against the operation that it names."""

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
from mdmw.observe import journal
from mdmw.records import Environ

LOG = logging.getLogger(__name__)

JSON = "application/json"


class WrongType(errors.BadRequest):
    """A body that is not JSON, by its Content-Type."""


class VersionNeeded(errors.BadRequest):
    """A change without If-Match, which could undo what another operator did."""


_STATUSES: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    # The first class that fits decides, so the special ones come first.
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
_DEFECT = "mdmw has a defect; its log says more under this request id"


def new_request_id() -> str:
    """That of the journal, where somebody keeps one."""
    kept = journal.current()
    return kept.request_id if kept else journal.new_request_id()


def reply(document: Any, status: int = 200) -> Response:
    """A good answer."""
    response = Response(json.dumps(document), status=status, content_type=JSON, charset="UTF-8")
    response.headers["Cache-Control"] = "no-store"  # there may be passwords in it
    return response


def refusal(error: Exception, request_id: str, who: object) -> Response:
    """The answer to an error, after logging it; an exception nobody meant to raise becomes a 500."""
    journal.note_error(error)
    who = wire.one_line(str(who))
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), None)
    if status is None:
        LOG.error("%s %s: unexpected", request_id, who, exc_info=error)
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
    said = {"code": status.value, "title": status.phrase, "message": message, "request_id": request_id}
    response = reply({"error": said}, status.value)
    response.status = f"{status.value} {status.phrase}"  # webob knows other names than Python
    response.headers[wire.REQUEST_ID] = request_id
    return response


Entry = TypeVar("Entry")


#: Bytes; as much as the user data, files and vendor data of one instance may reasonably have.
MAX_BODY = 1024 * 1024

_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets. `query` has every parameter that was given or has a default."""

    operator: Operator
    request_id: str
    target: str  # without the query
    path: Mapping[str, str]
    query: Mapping[str, Any]
    document: Any = field(repr=False)  # there may be passwords in it
    if_match: Collection[str] | None  # strong tags; None: any will do


def read(
    environ: Environ, operation: Operation, path: Mapping[str, str], operator: Operator, request_id: str
) -> Call:
    """The call; raises `BadRequest` and its kinds."""
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
    """Those of If-Match, without the weak ones."""
    given = environ.get("HTTP_IF_MATCH")
    if given is None:
        raise VersionNeeded('If-Match is needed: the ETag of what is to be changed, or "*" for any')
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
            raise BadRequest(f"query: {name} is there twice")
        seen.add(name)
        values[name] = _value(by_name[name], text)
    for name, parameter in by_name.items():
        if parameter.required and name not in values:
            raise BadRequest(f"query: {name} is needed")
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
            raise BadRequest("this takes no body")
        return None
    if request.content_type != JSON or (request.charset or "utf-8").lower() != "utf-8":
        raise WrongType(f"a body of type {JSON} is allowed")
    try:
        document = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_distinct)
        json.dumps(document, ensure_ascii=False).encode()  # not so with half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {_reason(error)}") from None
    if not isinstance(document, dict):
        raise BadRequest("the body: an object is allowed")
    return document


def _reason(error: Exception) -> str:
    """What is wrong, without a part of the body: it may be a password."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, line {error.lineno} column {error.colno}"
    if isinstance(error, UnicodeError):
        return "not all of it is UTF-8"
    return "too deep" if isinstance(error, RecursionError) else str(error)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name is there twice")
    return made


def link(call: Call, found: Sequence[Entry], limit: int, marker: Callable[[Entry], str]) -> str | None:
    """Where the next part is, if more was `found` than `limit`; `marker` names an entry."""
    if len(found) <= limit:
        return None
    return f"{call.target}?{urlencode({**call.query, 'marker': marker(found[limit - 1])})}"
