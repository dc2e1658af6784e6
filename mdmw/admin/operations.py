"""All that the admin API can do, as one table.

Its routes, its policy and its OpenAPI document are made from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from mdmw.admin import schemas
from mdmw.admin.schemas import Schema

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
            schemas.page(kind, schemas.SUMMARY),
            query=_PAGE,
            errors=(404,),
        ),
        Operation(
            f"create_inventory_{one}",
            "POST",
            listed,
            ADMIN,
            f"Add one of the {kind}; the document is that of one entry of the inventory file, as JSON.",
            schemas.DOCUMENT,
            status=201,
            body=schemas.DOCUMENT,
            errors=(404, 409),
        ),
        Operation(
            f"get_inventory_{one}",
            "GET",
            single,
            reading,
            f"One of the {kind}, whole; its ETag is what a change needs in If-Match.",
            schemas.DOCUMENT,
            errors=(404,),
        ),
        Operation(
            f"replace_inventory_{one}",
            "PUT",
            single,
            ADMIN,
            f"Give one of the {kind} another document.",
            schemas.DOCUMENT,
            body=schemas.DOCUMENT,
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
            schemas.places(kind),
            query=_PAGE,
        ),
        Operation(
            f"get_{one}",
            "GET",
            f"/v1/{kind}/{{id}}",
            READER,
            f"The same about one of the {kind}.",
            schemas.place(one),
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
        schemas.REQUESTS,
        query=(_LIMIT, *_SCOPE),
    ),
    Operation(
        "get_instance",
        "GET",
        "/v1/instances/{id}",
        READER,
        "What was served to an instance lately.",
        schemas.INSTANCE,
        query=(_LIMIT,),
        errors=(404,),
    ),
    Operation(
        "resolve",
        "GET",
        "/v1/resolve",
        READER,
        "Who is this: what the resolver says, asked as for a guest, and what the caches know beforehand.",
        schemas.RESOLVED,
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
        schemas.PURGED,
        body=schemas.PURGE,
    ),
    Operation(
        "reload",
        "POST",
        "/v1/reload",
        ADMIN,
        "Have the configuration loaded again by all processes that can; each says what happens.",
        schemas.RELOADED,
    ),
    Operation(
        "get_config",
        "GET",
        "/v1/config",
        ADMIN,  # a filter of somebody else may call its secrets what it likes
        "The pipelines of the ini file and their options, secrets masked, as mdmw check shows them.",
        schemas.CONFIG,
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
        schemas.page("changes", schemas.CHANGE),
        query=(
            _LIMIT,
            Parameter("marker", "before the change with this number", {"type": "integer", "minimum": 1}),
            Parameter("kind", "of one kind", {"type": "string", "enum": list(schemas.KINDS)}),
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
        schemas.OBJECT,
    ),
)
