"""One request of an operator, checked against the operation that it names."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from webob import Request
from webob.etag import ETagMatcher

from mdmw.admin.answers import JSON, VersionNeeded, WrongType
from mdmw.admin.operations import Operation, Parameter
from mdmw.admin.operators import Operator
from mdmw.boundary.body import read_body
from mdmw.errors import BadRequest
from mdmw.records import Environ

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
