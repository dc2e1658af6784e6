"""Handlers that read and change the embedded inventory."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from webob import Response

from mdmw import wire
from mdmw.admin.call import Call, next_page, reply
from mdmw.errors import BadRequest, NotFound, Outdated
from mdmw.inventory.store import Caller, Change, InventoryStore, Kind, Resource

LOG = logging.getLogger(__name__)

# Fields of an entry in a list: enough to identify the entry, and nothing secret.
_SHOWN = ("id", "name", "project_id", "hostname", "ports", "interfaces", "subnets", "mtu", "bridge")

_SINGULAR: Mapping[Kind, str] = {"networks": "network", "routers": "router", "instances": "instance"}


class InventoryHandlers:
    """Handlers over a store; without a store, each call raises `NotFound`."""

    def __init__(self, store: InventoryStore | None) -> None:
        self._given = store

    def handlers(self) -> dict[str, Callable[[Call], Response]]:
        """Name of the operation -> handler."""
        made: dict[str, Callable[[Call], Response]] = {"list_changes": self._changes}
        for kind, singular in _SINGULAR.items():
            made |= {
                f"list_inventory_{kind}": partial(self._list, kind),
                f"create_inventory_{singular}": partial(self._create, kind),
                f"get_inventory_{singular}": partial(self._get, kind),
                f"replace_inventory_{singular}": partial(self._replace, kind),
                f"delete_inventory_{singular}": partial(self._delete, kind),
            }
        return made

    def _list(self, kind: Kind, call: Call) -> Response:
        store, marker, limit = self._store, call.query.get("marker"), call.query["limit"]
        try:
            found = store.page(kind, limit + 1, marker)
        except NotFound:
            raise BadRequest(
                f"query: marker: the inventory has no {marker!r} any more; begin with the first page again"
            ) from None
        rows = [_shown(resource) for resource in found[:limit]]
        return reply({kind: rows, "next": next_page(call, found, limit, lambda resource: resource.id)})

    def _get(self, kind: Kind, call: Call) -> Response:
        return _with_etag(self._store.get(kind, call.path["id"]))

    def _create(self, kind: Kind, call: Call) -> Response:
        made = self._store.create(kind, call.document, _caller(call))
        _log(call, "created", kind, made.id)
        response = _with_etag(made, 201)
        response.headers["Location"] = f"{call.target}/{made.id}"
        return response

    def _replace(self, kind: Kind, call: Call) -> Response:
        id = call.path["id"]
        made = self._store.replace(kind, id, call.document, self._version(kind, call), _caller(call))
        _log(call, "replaced", kind, id)
        return _with_etag(made)

    def _delete(self, kind: Kind, call: Call) -> Response:
        id = call.path["id"]
        self._store.delete(kind, id, self._version(kind, call), _caller(call))
        _log(call, "deleted", kind, id)
        return Response(status=204, content_type=None)

    def _changes(self, call: Call) -> Response:
        limit, query = call.query["limit"], call.query
        found = self._store.changes(limit + 1, query.get("marker"), query.get("kind"), query.get("id"))
        next_link = next_page(call, found, limit, lambda change: str(change.number))
        return reply({"changes": [_described(change) for change in found[:limit]], "next": next_link})

    def _version(self, kind: Kind, call: Call) -> int | None:
        """The current version, if If-Match names it; None if If-Match names each version."""
        if call.if_match is None:
            return None
        current = self._store.get(kind, call.path["id"])
        if str(current.version) not in call.if_match:
            raise Outdated(
                f"{kind}[{current.id}] has version {current.version} now, and If-Match names another version"
            )
        return current.version

    @property
    def _store(self) -> InventoryStore:
        if self._given is None:
            raise NotFound("this API has no inventory: the option inventory_db of the app admin is not set")
        return self._given


def _shown(resource: Resource) -> dict[str, Any]:
    document = resource.document
    return {"version": resource.version} | {name: document[name] for name in _SHOWN if name in document}


def _with_etag(resource: Resource, status: int = 200) -> Response:
    response = reply(resource.document, status)
    response.etag = str(resource.version)
    return response


def _caller(call: Call) -> Caller:
    operator = call.operator
    return Caller(operator.name, operator.user_id, operator.project_id, call.request_id)


def _log(call: Call, what: str, kind: Kind, id: str) -> None:
    LOG.info("%s %s: %s %s[%s]", call.request_id, wire.one_line(str(call.operator)), what, kind, id)


def _described(change: Change) -> dict[str, Any]:
    return asdict(change) | {"time": change.time.isoformat(), "fields": list(change.fields)}
