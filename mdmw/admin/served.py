"""What is served on this machine, since when, and what was served lately."""

import heapq
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from webob import Response

from mdmw import wire
from mdmw.admin.call import Call, link, reply
from mdmw.errors import BadRequest, NotFound, Unavailable
from mdmw.observe import node_status, processes
from mdmw.observe.counters import BOUNDS
from mdmw.observe.node_status import NodeStatus
from mdmw.observe.processes import Reply
from mdmw.records import Scope


class Processes:
    """Those that have a socket in `directory`."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def ask(
        self, question: str, timeout: float = 2.0, pid: int | None = None, **arguments: Any
    ) -> list[Reply]:
        """As `mdmw.observe.processes.ask`; raises `Unavailable` when they cannot be found."""
        try:
            return processes.ask(self._directory, question, timeout, pid=pid, **arguments)
        except OSError as error:
            raise Unavailable(f"{self._directory} cannot be read: {error.strerror}") from None


def answered(replies: Iterable[Reply]) -> list[Reply]:
    """Those with an answer."""
    return [reply for reply in replies if not reply.problem]


def silent(replies: Iterable[Reply]) -> list[dict[str, Any]]:
    """Those that were not heard: what is told is told without them."""
    return [
        {"pipeline": reply.pipeline, "pid": reply.pid, "problem": reply.problem}
        for reply in replies
        if not reply.is_heard
    ]


LOG = logging.getLogger(__name__)

# Seconds; longer than any resolver may take.
_RESOLVE_WITHIN = 30.0
_RELOAD_WITHIN = 30.0

# What a process raises that cannot be asked this, or has no cache.
_NOT_FOR_IT = "NotFound"


class Acting:
    """Handlers that have serving processes do something."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def handlers(self) -> dict[str, Callable[[Call], Response]]:
        """By the name of the operation."""
        return {"resolve": self._resolve, "purge_cache": self._purge, "reload": self._reload}

    def _resolve(self, call: Call) -> Response:
        query = call.query
        scope = one_scope(query)
        who = {"kind": scope.kind, "id": scope.id, "address": query["address"], "mac": query.get("mac")}
        remembered = self._processes.ask("cache", **who)  # before somebody is asked, who may then remember
        path = self._first_answer(remembered, who | {"fresh": query["fresh"]})
        return reply(
            {
                scope.kind: scope.id,
                "address": query["address"],
                "instance": path.answer.pop("instance"),
                "reason": path.answer.pop("reason"),
                "path": {"pipeline": path.pipeline, "pid": path.pid, **path.answer},
                "caches": [
                    {"pipeline": one.pipeline, "pid": one.pid, **one.answer} for one in answered(remembered)
                ],
                "silent": silent(remembered),
            }
        )

    def _first_answer(self, replies: list[Reply], who: Mapping[str, Any]) -> Reply:
        """Of one process that has a resolver; raises what that raised."""
        for one in replies:
            if one.error in ("", _NOT_FOR_IT) and one.is_heard:
                for found in self._processes.ask("resolve", _RESOLVE_WITHIN, one.pid, **who):
                    if found.error == _NOT_FOR_IT:
                        break
                    if found.error == BadRequest.__name__:
                        raise BadRequest(found.problem)
                    if found.problem:
                        raise Unavailable(f"{found.pipeline} {found.pid}: {found.problem}")
                    return found
            elif one.error == BadRequest.__name__:
                raise BadRequest(one.problem)
        raise Unavailable("no serving process here has a resolver, or none answers")

    def _purge(self, call: Call) -> Response:
        wanted = _purged(call.document)
        replies = self._processes.ask("purge", **wanted)
        _log(call, f"purged the cache of {' '.join(wanted.values()) or 'everything'}")
        return reply(
            {
                "processes": [
                    {"pipeline": one.pipeline, "pid": one.pid, "dropped": one.answer["dropped"]}
                    for one in answered(replies)
                ],
                "silent": silent(replies),
            }
        )

    def _reload(self, call: Call) -> Response:
        """One after the other, since several may have the same master, which is to be told once."""
        _log(call, "has the configuration loaded again")
        told: list[int] = []
        done = []
        for one in self._processes.ask("process"):
            for asked in self._processes.ask("reload", _RELOAD_WITHIN, one.pid, told=told):
                said = {"pipeline": asked.pipeline, "pid": asked.pid}
                if asked.problem:
                    done.append(said | {"reloads": False, "text": asked.problem})
                    continue
                told += asked.answer["told"]
                done.append(said | {"reloads": asked.answer["reloads"], "text": asked.answer["text"]})
        return reply({"processes": done})


def one_scope(given: Mapping[str, Any]) -> Scope:
    """The scope that is named, as `network` or as `router`; raises `BadRequest`."""
    if "network" in given and "router" not in given:
        return Scope("network", given["network"])
    if "router" in given and "network" not in given:
        return Scope("router", given["router"])
    raise BadRequest("either network or router is needed")


def _purged(document: Mapping[str, Any]) -> dict[str, Any]:
    if set(document) == {"all"} and document["all"] is True:
        return {}
    if len(document) != 1 or not all(isinstance(value, str) and value for value in document.values()):
        raise BadRequest('{"network": ID}, {"router": ID} or {"all": true} is allowed')
    scope = one_scope(document)
    return {"kind": scope.kind, "id": scope.id}


def _log(call: Call, what: str) -> None:
    LOG.info("%s %s: %s", call.request_id, wire.one_line(str(call.operator)), wire.one_line(what))


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
        next_link = link(call, ids, limit, str)
        return reply({kinds: page, "bounds": BOUNDS, "next": next_link, "silent": silent(replies)})

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
