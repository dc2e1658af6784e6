"""All that the admin API can do, as one table.

Its routes, its policy and its OpenAPI document are made from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

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


#: Who may, unless the policy file says otherwise.
READER: Final = "reader"
ADMIN: Final = "admin"

_MOST = 1000
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something in the query, a text or a whole number; its schema may have a default."""

    name: str
    about: str
    schema: Mapping[str, Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. What is `versioned` needs If-Match; `errors` are those not all others have."""

    name: str
    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    may: Literal["reader", "admin"]
    about: str
    answer: Schema | None = None
    status: int = 200
    query: tuple[Parameter, ...] = ()
    body: Schema | None = None
    versioned: bool = False
    errors: tuple[int, ...] = ()

    @property
    def rule(self) -> str:
        """Its name in a policy file."""
        return f"mdmw:{self.name}"


def _text(name: str, about: str) -> Parameter:
    return Parameter(name, about, {"type": "string", "minLength": 1, "maxLength": _LONGEST})


_LIMIT = Parameter(
    "limit",
    "the most that one answer has",
    {"type": "integer", "minimum": 1, "maximum": _MOST, "default": 100},
)
_MARKER = _text("marker", "from behind this one, the last of the page before")
_PAGE = (_LIMIT, _MARKER)
_SCOPE = (_text("network", "the id of a network"), _text("router", "the id of a router"))


def _inventory(kind: str, one: str, reading: Literal["reader", "admin"]) -> tuple[Operation, ...]:
    """What can be done with one kind of resource."""
    listed, single = f"/v1/inventory/{kind}", f"/v1/inventory/{kind}/{{id}}"
    return (
        Operation(
            f"list_inventory_{kind}",
            "GET",
            listed,
            READER,
            f"The {kind} of the inventory in order of creation, each with the least that identifies it.",
            page(kind, SUMMARY),
            query=_PAGE,
            errors=(404,),
        ),
        Operation(
            f"create_inventory_{one}",
            "POST",
            listed,
            ADMIN,
            f"Add one of the {kind}; the document is that of one entry of the inventory file, as JSON.",
            DOCUMENT,
            status=201,
            body=DOCUMENT,
            errors=(404, 409),
        ),
        Operation(
            f"get_inventory_{one}",
            "GET",
            single,
            reading,
            f"One of the {kind}, whole; its ETag is what a change needs in If-Match.",
            DOCUMENT,
            errors=(404,),
        ),
        Operation(
            f"replace_inventory_{one}",
            "PUT",
            single,
            ADMIN,
            f"Give one of the {kind} another document.",
            DOCUMENT,
            body=DOCUMENT,
            versioned=True,
            errors=(404, 409),
        ),
        Operation(
            f"delete_inventory_{one}",
            "DELETE",
            single,
            ADMIN,
            f"Take one of the {kind} away.",
            status=204,
            versioned=True,
            errors=(404, 409),
        ),
    )


def _places(kind: str, one: str) -> tuple[Operation, ...]:
    """What can be asked about networks, or about routers."""
    return (
        Operation(
            f"list_{kind}",
            "GET",
            f"/v1/{kind}",
            READER,
            f"The {kind} that are served here: their listeners since when, and their requests so far.",
            places(kind),
            query=_PAGE,
        ),
        Operation(
            f"get_{one}",
            "GET",
            f"/v1/{kind}/{{id}}",
            READER,
            f"The same about one of the {kind}.",
            place(one),
            errors=(404,),
        ),
    )


OPERATIONS: tuple[Operation, ...] = (
    *_places("networks", "network"),
    *_places("routers", "router"),
    Operation(
        "list_requests",
        "GET",
        "/v1/requests",
        READER,
        "The last requests of guests, the newest first; each process remembers its last 1000.",
        REQUESTS,
        query=(_LIMIT, *_SCOPE),
    ),
    Operation(
        "get_instance",
        "GET",
        "/v1/instances/{id}",
        READER,
        "What was served to an instance lately.",
        INSTANCE,
        query=(_LIMIT,),
        errors=(404,),
    ),
    Operation(
        "resolve",
        "GET",
        "/v1/resolve",
        READER,
        "Who is this: what the resolver says, asked as for a guest, and what the caches know beforehand.",
        RESOLVED,
        query=(
            *_SCOPE,
            Parameter("address", "the guest's address", {"type": "string", "maxLength": 64}, required=True),
            Parameter("mac", "the guest's MAC", {"type": "string", "maxLength": 17}),
            Parameter("fresh", "true: not out of a cache", {"type": "boolean", "default": False}),
        ),
    ),
    Operation(
        "purge_cache",
        "POST",
        "/v1/cache:purge",
        ADMIN,
        "Have all processes forget who is who on a network or router, or everywhere.",
        PURGED,
        body=PURGE,
    ),
    Operation(
        "reload",
        "POST",
        "/v1/reload",
        ADMIN,
        "Have the configuration loaded again by all processes that can; each says what happens.",
        RELOADED,
    ),
    Operation(
        "get_config",
        "GET",
        "/v1/config",
        ADMIN,  # a filter of somebody else may call its secrets what it likes
        "The pipelines of the ini file and their options, secrets masked, as mdmw check shows them.",
        CONFIG,
    ),
    *_inventory("networks", "network", READER),
    *_inventory("routers", "router", READER),
    # With passwords and user data in it, so not for everybody who may look.
    *_inventory("instances", "instance", ADMIN),
    Operation(
        "list_changes",
        "GET",
        "/v1/inventory/audit",
        READER,
        "Who changed the inventory, the newest change first; names of fields, never values.",
        page("changes", CHANGE),
        query=(
            _LIMIT,
            Parameter("marker", "before the change with this number", {"type": "integer", "minimum": 1}),
            Parameter("kind", "of one kind", {"type": "string", "enum": list(KINDS)}),
            _text("id", "of one resource"),
        ),
        errors=(404,),
    ),
    Operation(
        "get_openapi",
        "GET",
        "/v1/openapi.json",
        READER,
        "This API as an OpenAPI 3.1 document.",
        OBJECT,
    ),
)
