"""The operations of the admin API, as one table.

The routes, the policy and the OpenAPI document of the API are made from this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Schema = Mapping[str, Any]

KINDS = ("networks", "routers", "instances")
#: The rules of the policy that an operation may need.
READER: Final = "reader"
ADMIN: Final = "admin"

_MOST = 1000
_LONGEST = 255


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
    """A page of a list; `next` is the path of the next page."""
    return _object({name: _list(of), "next": NULLABLE})


STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
NULLABLE: Schema = {"type": ["string", "null"]}
TIME: Schema = {"type": "string", "format": "date-time"}
OBJECT: Schema = {"type": "object"}

ERROR = _object(
    {"error": _object({"code": INTEGER, "title": STRING, "message": STRING, "request_id": STRING})}
)

#: One entry of the inventory. doc/inventory.rst lists the keys, and the inventory checks them.
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

_COUNTS: Schema = {"type": "object", "additionalProperties": INTEGER}
_PROCESS = {"pipeline": STRING, "pid": INTEGER}
SILENT = _list(_object({**_PROCESS, "problem": STRING}))
_NULLABLE_OBJECT: Schema = {"type": ["object", "null"]}

#: `durations` has the number of requests up to each of `bounds`, in seconds, and last the number above.
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
_SCOPE_STATE = _object(
    {
        "id": STRING,
        "listeners": _list(_object({"namespace": STRING, "address": STRING, "port": INTEGER, "since": TIME})),
        "problems": _list(STRING),
        "pipelines": {"type": "object", "additionalProperties": _COUNTERS},
    }
)
_BOUNDS = _list(NUMBER)


def scopes_page(name: str) -> Schema:
    """A page of the networks, or of the routers."""
    return _object({name: _list(_SCOPE_STATE), "bounds": _BOUNDS, "next": NULLABLE, "silent": SILENT})


def one_scope(name: str) -> Schema:
    """One network or router."""
    return _object({name: _SCOPE_STATE, "bounds": _BOUNDS, "silent": SILENT})


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


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query; its schema may have a default."""

    name: str
    about: str
    schema: Mapping[str, Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    `may` is the rule that the policy of the code requires. A `versioned` operation needs If-Match. `errors`
    are the statuses that not every operation has.
    """

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
        """Name of the rule of this operation in a policy file."""
        return f"mdmw:{self.name}"


def _text(name: str, about: str) -> Parameter:
    return Parameter(name, about, {"type": "string", "minLength": 1, "maxLength": _LONGEST})


_LIMIT = Parameter(
    "limit",
    "Most entries of one answer.",
    {"type": "integer", "minimum": 1, "maximum": _MOST, "default": 100},
)
_MARKER = _text("marker", "Last entry of the page before; the answer begins with the entry after it.")
_PAGE = (_LIMIT, _MARKER)
_SCOPE = (_text("network", "Id of a network."), _text("router", "Id of a router."))


def _inventory(kind: str, one: str, reading: Literal["reader", "admin"]) -> tuple[Operation, ...]:
    """The operations on one kind of inventory resource."""
    listed, single = f"/v1/inventory/{kind}", f"/v1/inventory/{kind}/{{id}}"
    return (
        Operation(
            f"list_inventory_{kind}",
            "GET",
            listed,
            READER,
            f"List the {kind} of the inventory in the order of their creation, each with the fields that "
            "identify it.",
            page(kind, SUMMARY),
            query=_PAGE,
            errors=(404,),
        ),
        Operation(
            f"create_inventory_{one}",
            "POST",
            listed,
            ADMIN,
            f"Add one {one}; the document is an entry of the inventory file, as JSON.",
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
            f"Show all fields of one {one}; a change of this {one} needs the ETag in If-Match.",
            DOCUMENT,
            errors=(404,),
        ),
        Operation(
            f"replace_inventory_{one}",
            "PUT",
            single,
            ADMIN,
            f"Replace the document of one {one}.",
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
            f"Delete one {one}.",
            status=204,
            versioned=True,
            errors=(404, 409),
        ),
    )


def _served(kind: str, one: str) -> tuple[Operation, ...]:
    """The operations about networks, or about routers."""
    return (
        Operation(
            f"list_{kind}",
            "GET",
            f"/v1/{kind}",
            READER,
            f"List the {kind} whose guests this host serves, with their listeners and the counters of their "
            "requests.",
            scopes_page(kind),
            query=_PAGE,
        ),
        Operation(
            f"get_{one}",
            "GET",
            f"/v1/{kind}/{{id}}",
            READER,
            f"Show the listeners and the counters of the requests of one {one}.",
            one_scope(one),
            errors=(404,),
        ),
    )


OPERATIONS: tuple[Operation, ...] = (
    *_served("networks", "network"),
    *_served("routers", "router"),
    Operation(
        "list_requests",
        "GET",
        "/v1/requests",
        READER,
        "List the last requests of guests, the newest first; each process remembers its last 1000 requests.",
        REQUESTS,
        query=(_LIMIT, *_SCOPE),
    ),
    Operation(
        "get_instance",
        "GET",
        "/v1/instances/{id}",
        READER,
        "List the last requests of an instance, the newest first.",
        INSTANCE,
        query=(_LIMIT,),
        errors=(404,),
    ),
    Operation(
        "resolve",
        "GET",
        "/v1/resolve",
        READER,
        "Resolve an address as for a request of a guest, and show what the caches had before.",
        RESOLVED,
        query=(
            *_SCOPE,
            Parameter("address", "Address of the guest.", {"type": "string", "maxLength": 64}, required=True),
            Parameter("mac", "MAC of the guest.", {"type": "string", "maxLength": 17}),
            Parameter(
                "fresh", "true: ask the back end and not the cache.", {"type": "boolean", "default": False}
            ),
        ),
    ),
    Operation(
        "purge_cache",
        "POST",
        "/v1/cache:purge",
        ADMIN,
        "Empty the caches of all serving processes, for one network or router or for everything.",
        PURGED,
        body=PURGE,
    ),
    Operation(
        "reload",
        "POST",
        "/v1/reload",
        ADMIN,
        "Let all serving processes load their configuration again; each process says what happens.",
        RELOADED,
    ),
    Operation(
        "get_config",
        "GET",
        "/v1/config",
        ADMIN,  # a filter of another package may give its secrets any name
        "Show the pipelines of the ini file and their options, as mdmw check does; stars stand for secrets.",
        CONFIG,
    ),
    *_inventory("networks", "network", READER),
    *_inventory("routers", "router", READER),
    # An instance has passwords and user data, so a reader may not see it.
    *_inventory("instances", "instance", ADMIN),
    Operation(
        "list_changes",
        "GET",
        "/v1/inventory/audit",
        READER,
        "List the changes of the inventory, the newest first, with the names of the changed fields and no "
        "values.",
        page("changes", CHANGE),
        query=(
            _LIMIT,
            Parameter(
                "marker",
                "Number of a change; the answer begins with the change before it.",
                {"type": "integer", "minimum": 1},
            ),
            Parameter("kind", "Kind of the resources.", {"type": "string", "enum": list(KINDS)}),
            _text("id", "Id of a resource."),
        ),
        errors=(404,),
    ),
    Operation(
        "get_openapi",
        "GET",
        "/v1/openapi.json",
        READER,
        "Show this API as an OpenAPI 3.1 document.",
        OBJECT,
    ),
)
