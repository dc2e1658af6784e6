"""The embedded inventory, resource by resource."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from webob import Response

from mdmw import wire
from mdmw.admin.call import Call, link, reply
from mdmw.errors import BadRequest, NotFound, Outdated
from mdmw.inventory.store import Caller, Change, InventoryStore, Kind, Resource

LOG = logging.getLogger(__name__)

# Of an entry in a list: what tells it from others, and nothing that a guest is told in secret.
_SHOWN = ("id", "name", "project_id", "hostname", "ports", "interfaces", "subnets", "mtu", "bridge")

_ONE: Mapping[Kind, str] = {"networks": "network", "routers": "router", "instances": "instance"}


class Inventory:
    """Handlers over a store; without one every call is `NotFound`."""

    def __init__(self, store: InventoryStore | None) -> None:
        self._given = store

    def handlers(self) -> dict[str, Callable[[Call], Response]]:
        """By the name of the operation."""
        made: dict[str, Callable[[Call], Response]] = {"list_changes": self._changes}
        for kind, one in _ONE.items():
            made |= {
                f"list_inventory_{kind}": partial(self._list, kind),
                f"create_inventory_{one}": partial(self._create, kind),
                f"get_inventory_{one}": partial(self._get, kind),
                f"replace_inventory_{one}": partial(self._replace, kind),
                f"delete_inventory_{one}": partial(self._delete, kind),
            }
        return made

    def _list(self, kind: Kind, call: Call) -> Response:
        store, marker, limit = self._store, call.query.get("marker"), call.query["limit"]
        try:
            found = store.page(kind, limit + 1, marker)
        except NotFound:
            raise BadRequest(f"query: marker: {marker!r} is not there any more; begin again") from None
        rows = [_shown(resource) for resource in found[:limit]]
        return reply({kind: rows, "next": link(call, found, limit, lambda resource: resource.id)})

    def _get(self, kind: Kind, call: Call) -> Response:
        return _whole(self._store.get(kind, call.path["id"]))

    def _create(self, kind: Kind, call: Call) -> Response:
        made = self._store.create(kind, call.document, _caller(call))
        _log(call, "created", kind, made.id)
        response = _whole(made, 201)
        response.headers["Location"] = f"{call.target}/{made.id}"
        return response

    def _replace(self, kind: Kind, call: Call) -> Response:
        id = call.path["id"]
        made = self._store.replace(kind, id, call.document, self._version(kind, call), _caller(call))
        _log(call, "replaced", kind, id)
        return _whole(made)

    def _delete(self, kind: Kind, call: Call) -> Response:
        id = call.path["id"]
        self._store.delete(kind, id, self._version(kind, call), _caller(call))
        _log(call, "deleted", kind, id)
        return Response(status=204, content_type=None)

    def _changes(self, call: Call) -> Response:
        limit, query = call.query["limit"], call.query
        found = self._store.changes(limit + 1, query.get("marker"), query.get("kind"), query.get("id"))
        next_link = link(call, found, limit, lambda change: str(change.number))
        return reply({"changes": [_described(change) for change in found[:limit]], "next": next_link})

    def _version(self, kind: Kind, call: Call) -> int | None:
        """The version that If-Match names, if it is that of today; None for any."""
        if call.if_match is None:
            return None
        now = self._store.get(kind, call.path["id"])
        if str(now.version) not in call.if_match:
            raise Outdated(f"{kind}[{now.id}] is version {now.version} now, which is not in If-Match")
        return now.version

    @property
    def _store(self) -> InventoryStore:
        if self._given is None:
            raise NotFound("there is no inventory here to be changed: the app admin has no inventory_db")
        return self._given


def _shown(resource: Resource) -> dict[str, Any]:
    document = resource.document
    return {"version": resource.version} | {name: document[name] for name in _SHOWN if name in document}


def _whole(resource: Resource, status: int = 200) -> Response:
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
