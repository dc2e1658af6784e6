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
