"""JSON schemas of what the admin API takes and gives."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

KINDS = ("networks", "routers", "instances")


def _object(properties: Mapping[str, Any], *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def page(name: str, of: Schema) -> Schema:
    """A part of a list; `next` is where the rest of it is."""
    return _object({name: _list(of), "next": NULLABLE})


STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NULLABLE: Schema = {"type": ["string", "null"]}
TIME: Schema = {"type": "string", "format": "date-time"}
OBJECT: Schema = {"type": "object"}

ERROR = _object(
    {"error": _object({"code": INTEGER, "title": STRING, "message": STRING, "request_id": STRING})}
)

#: One entry of the inventory; doc/inventory.rst has its keys, and the server checks them.
DOCUMENT: Schema = {
    "type": "object",
    "properties": {"id": {"type": "string", "format": "uuid"}},
    "required": ["id"],
    "additionalProperties": True,
}
SUMMARY: Schema = {
    "type": "object",
    "properties": {"id": {"type": "string", "format": "uuid"}, "version": INTEGER},
    "required": ["id", "version"],
    "additionalProperties": True,
}
CHANGE = _object(
    {
        "number": INTEGER,
        "time": TIME,
        "caller": _object({"name": STRING, "user_id": STRING, "project_id": STRING, "request_id": STRING}),
        "action": {"enum": ["create", "replace", "delete"]},
        "kind": {"enum": list(KINDS)},
        "id": STRING,
        "old_version": {"type": ["integer", "null"]},
        "new_version": {"type": ["integer", "null"]},
        "fields": _list(STRING),
    }
)
CONFIG = _object(
    {
        "file": STRING,
        "pipelines": {
            "type": "object",
            "additionalProperties": _list(
                _object(
                    {
                        "stage": STRING,
                        "use": STRING,
                        "options": {"type": "object", "additionalProperties": STRING},
                    }
                )
            ),
        },
    }
)

NUMBER: Schema = {"type": "number"}
_COUNTS: Schema = {"type": "object", "additionalProperties": INTEGER}
_PROCESS = {"pipeline": STRING, "pid": INTEGER}
SILENT = _list(_object({**_PROCESS, "problem": STRING}))
_NULLABLE_OBJECT: Schema = {"type": ["object", "null"]}

#: `durations` counts requests by how long they took: not above each of `bounds`, then all above.
_COUNTERS = _object(
    {
        "requests": INTEGER,
        "statuses": _COUNTS,
        "seconds": NUMBER,
        "slowest": NUMBER,
        "durations": _list(INTEGER),
        "first": TIME,
        "last": TIME,
    }
)
_PLACE = _object(
    {
        "id": STRING,
        "listeners": _list(_object({"namespace": STRING, "address": STRING, "port": INTEGER, "since": TIME})),
        "problems": _list(STRING),
        "pipelines": {"type": "object", "additionalProperties": _COUNTERS},
    }
)
_BOUNDS = _list(NUMBER)


def places(name: str) -> Schema:
    """A part of the networks, or of the routers."""
    return _object({name: _list(_PLACE), "bounds": _BOUNDS, "next": NULLABLE, "silent": SILENT})


def place(name: str) -> Schema:
    """One network or router."""
    return _object({name: _PLACE, "bounds": _BOUNDS, "silent": SILENT})


_REQUEST = _object(
    {
        **_PROCESS,
        "time": TIME,
        "request_id": STRING,
        "address": NULLABLE,
        "network": NULLABLE,
        "router": NULLABLE,
        "instance": NULLABLE,
        "project": NULLABLE,
        "method": STRING,
        "path": STRING,
        "status": INTEGER,
        "bytes": INTEGER,
        "seconds": NUMBER,
        "stages": {"type": "object", "additionalProperties": NUMBER},
        "cache": STRING,
        "error": STRING,
        "notes": _COUNTS,
    }
)
REQUESTS = _object({"requests": _list(_REQUEST), "silent": SILENT})
INSTANCE = _object({"id": STRING, "requests": _list(_REQUEST), "silent": SILENT})
RESOLVED = _object(
    {
        "network": STRING,
        "router": STRING,
        "address": STRING,
        "instance": _NULLABLE_OBJECT,
        "reason": STRING,
        "path": _object(
            {**_PROCESS, "resolver": STRING, "cache": STRING, "calls": INTEGER, "seconds": NUMBER}
        ),
        "caches": _list(
            _object({**_PROCESS, "answers": _list({"type": "object"}), "snapshot": _NULLABLE_OBJECT})
        ),
        "silent": SILENT,
    },
    "network",
    "router",
)
PURGE: Schema = {
    "oneOf": [
        _object({"network": {"type": "string", "minLength": 1}}),
        _object({"router": {"type": "string", "minLength": 1}}),
        _object({"all": {"const": True}}),
    ]
}
PURGED = _object({"processes": _list(_object({**_PROCESS, "dropped": INTEGER})), "silent": SILENT})
RELOADED = _object(
    {"processes": _list(_object({**_PROCESS, "reloads": {"type": "boolean"}, "text": STRING}))}
)
