"""What is served on this machine, since when, and what was served lately."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from webob import Response

from mdmw.admin import paging
from mdmw.admin.acting import one_scope
from mdmw.admin.answers import reply
from mdmw.admin.call import Call
from mdmw.admin.processes import Processes, answered, silent
from mdmw.errors import NotFound
from mdmw.observe import node_status
from mdmw.observe.node_status import NodeStatus
from mdmw.observe.processes import Reply
from mdmw.observe.tally import BOUNDS

_KINDS = {"networks": "network", "routers": "router"}


class Served:
    """Handlers over the serving processes, and over what mdmw-node says of its listeners."""

    def __init__(self, processes: Processes, status_file: str) -> None:
        self._processes = processes
        self._status_file = Path(status_file)

    def handlers(self) -> dict[str, Callable[[Call], Response]]:
        """By the name of the operation."""
        made: dict[str, Callable[[Call], Response]] = {
            "list_requests": self._requests,
            "get_instance": self._instance,
        }
        for kinds, kind in _KINDS.items():
            made[f"list_{kinds}"] = partial(self._list, kinds, kind)
            made[f"get_{kind}"] = partial(self._get, kind)
        return made

    def _list(self, kinds: str, kind: str, call: Call) -> Response:
        replies, places = self._places(kind)
        limit, marker = call.query["limit"], call.query.get("marker", "")
        ids = sorted(id_ for id_ in places if id_ > marker)[: limit + 1]
        page = [places[id_] for id_ in ids[:limit]]
        link = paging.link(call, ids, limit, str)
        return reply({kinds: page, "bounds": BOUNDS, "next": link, "silent": silent(replies)})

    def _get(self, kind: str, call: Call) -> Response:
        id_ = call.path["id"]
        replies, places = self._places(kind)
        if id_ not in places:
            raise NotFound(f"{kind} {id_} is not served here, and nobody on it has asked")
        return reply({kind: places[id_], "bounds": BOUNDS, "silent": silent(replies)})

    def _requests(self, call: Call) -> Response:
        limit, query = call.query["limit"], call.query
        scope = one_scope(query) if {"network", "router"} & set(query) else None
        listed = scope and [scope.kind, scope.id]
        replies = self._processes.ask("recent", limit=limit, scope=listed)
        return reply({"requests": _newest(replies, limit), "silent": silent(replies)})

    def _instance(self, call: Call) -> Response:
        limit, id_ = call.query["limit"], call.path["id"]
        replies = self._processes.ask("recent", limit=limit, instance=id_)
        return reply({"id": id_, "requests": _newest(replies, limit), "silent": silent(replies)})

    def _places(self, kind: str) -> tuple[Sequence[Reply], dict[str, dict[str, Any]]]:
        """All networks or all routers, by their id."""
        replies = self._processes.ask("counters")
        places: dict[str, dict[str, Any]] = {}

        def place(id_: str) -> dict[str, Any]:
            return places.setdefault(id_, {"id": id_, "listeners": [], "problems": [], "pipelines": {}})

        status = node_status.read(self._status_file)
        if status is not None and status.is_running:
            _add_listeners(status, kind, place)
        for one in answered(replies):
            for counters in one.answer["scopes"]:
                if counters["scope"] and counters["scope"][0] == kind:
                    _add_counters(place(counters["scope"][1])["pipelines"], one.pipeline, counters)
        return replies, places


def _add_listeners(status: NodeStatus, kind: str, place: Callable[[str], dict[str, Any]]) -> None:
    for one in status.listeners:
        if one.scope.kind == kind:
            place(one.scope.id)["listeners"].append(
                {
                    "namespace": one.namespace,
                    "address": one.address,
                    "port": one.port,
                    "since": _time(one.since),
                }
            )
    for problem in status.plan.problems if status.plan else ():
        if problem.scope and problem.scope.kind == kind:
            place(problem.scope.id)["problems"].append(problem.text)


def _add_counters(pipelines: dict[str, Any], name: str, new: dict[str, Any]) -> None:
    """Add up over the processes of a pipeline. Pipelines are apart: two may have had the same request."""
    first, last = _time(new["first"]), _time(new["last"])
    sum_ = pipelines.setdefault(
        name,
        {
            "requests": 0,
            "statuses": {},
            "seconds": 0.0,
            "slowest": 0.0,
            "durations": [0] * len(new["durations"]),
            "first": first,
            "last": last,
        },
    )
    sum_["requests"] += new["count"]
    for status, count in new["statuses"].items():
        sum_["statuses"][status] = sum_["statuses"].get(status, 0) + count
    sum_["seconds"] = round(sum_["seconds"] + new["seconds"], 6)
    sum_["slowest"] = max(sum_["slowest"], new["slowest"])
    sum_["durations"] = [a + b for a, b in zip(sum_["durations"], new["durations"], strict=True)]
    sum_["first"], sum_["last"] = min(sum_["first"], first), max(sum_["last"], last)


def _newest(replies: Iterable[Reply], limit: int) -> list[dict[str, Any]]:
    """The last requests of all processes, the newest first."""
    lists = [
        [{"pipeline": one.pipeline, "pid": one.pid, **request} for request in one.answer]
        for one in answered(replies)
    ]
    merged = heapq.nlargest(limit, (request for each in lists for request in each), key=_by_time)
    return [_request(request) for request in merged]


def _by_time(request: dict[str, Any]) -> float:
    time: float = request["time"]
    return time


def _request(request: dict[str, Any]) -> dict[str, Any]:
    scope = request.pop("scope")
    network, router = (scope[1] if scope and scope[0] == kind else None for kind in ("network", "router"))
    return request | {"time": _time(request["time"]), "network": network, "router": router}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
