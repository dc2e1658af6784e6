"""The admin API as an OpenAPI 3.1 document, made from the table of operations."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from mdmw.admin import operations
from mdmw.admin.call import JSON
from mdmw.admin.operations import OPERATIONS, Operation, Schema

_STATUSES_OF_ALL = (400, 401, 403, 503)
_STATUSES_OF_BODY = (408, 411, 413, 415)
_STATUSES_OF_VERSION = (412, 428)
_VARIABLE = {"type": "string", "minLength": 1}


def document() -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mdmw admin API", "version": version("mdmw")},
        "paths": paths,
        "security": [{"token": []}],
        "components": {
            "schemas": {"Error": operations.ERROR},
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.about,
        "x-policy": operation.rule,
        "parameters": list(_parameters(operation)),
        "responses": _responses(operation),
    }
    if operation.body:
        described["requestBody"] = {"required": True, "content": _json(operation.body)}
    return described


def _parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    if "{id}" in operation.path:
        yield {"name": "id", "in": "path", "required": True, "schema": _VARIABLE}
    for parameter in operation.query:
        yield {
            "name": parameter.name,
            "in": "query",
            "required": parameter.required,
            "description": parameter.about,
            "schema": parameter.schema,
        }
    if operation.versioned:
        about = 'The ETag of the version to be changed, or "*" for each version.'
        yield {
            "name": "If-Match",
            "in": "header",
            "required": True,
            "description": about,
            "schema": operations.STRING,
        }


def _responses(operation: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {"description": HTTPStatus(operation.status).phrase}
    if operation.answer:
        good["content"] = _json(operation.answer)
    statuses = {*_STATUSES_OF_ALL, *operation.errors}
    statuses |= {*_STATUSES_OF_BODY} if operation.body else set()
    statuses |= {*_STATUSES_OF_VERSION} if operation.versioned else set()
    failed = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": _json({"$ref": "#/components/schemas/Error"}),
        }
        for status in sorted(statuses)
    }
    return {str(operation.status): good, **failed}


def _json(schema: Schema) -> Mapping[str, Any]:
    return {JSON: {"schema": schema}}
