"""What the serving processes of this host have done, and what operators make these processes do."""

import heapq
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from webob import Response

from mdmw import wire
from mdmw.admin.call import Call, next_page, reply
from mdmw.errors import BadRequest, NotFound, Unavailable
from mdmw.observe import node_status, processes
from mdmw.observe.counters import BOUNDS
from mdmw.observe.node_status import NodeStatus
from mdmw.observe.processes import Reply
from mdmw.records import Scope

LOG = logging.getLogger(__name__)

_RESOLVE_WITHIN = 30.0  # seconds; longer than any resolver may take
_RELOAD_WITHIN = 30.0  # seconds
_KINDS = {"networks": "network", "routers": "router"}
#: Error of a process that has no resolver, or no cache.
_NOT_ASKABLE = "NotFound"

Handlers = dict[str, Callable[[Call], Response]]


class ServingProcesses:
    """The processes that have an introspection socket in `directory`."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def ask(
        self, question: str, timeout: float = 2.0, pid: int | None = None, **arguments: Any
    ) -> list[Reply]:
        """The replies of all processes, or of one; raises `Unavailable` if the directory cannot be read."""
        try:
            return processes.ask(self._directory, question, timeout, pid=pid, **arguments)
        except OSError as error:
            raise Unavailable(f"{self._directory} cannot be read: {error.strerror}") from None


class TrafficHandlers:
    """Handlers that read: networks, routers, requests of guests. `status_file` is that of mdmw-node."""

    def __init__(self, serving: ServingProcesses, status_file: str) -> None:
        self._serving = serving
        self._status_file = Path(status_file)

    def handlers(self) -> Handlers:
        """Name of the operation -> handler."""
        made: Handlers = {"list_requests": self._list_requests, "get_instance": self._get_instance}
        for kinds, kind in _KINDS.items():
            made[f"list_{kinds}"] = partial(self._list_scopes, kinds, kind)
            made[f"get_{kind}"] = partial(self._get_scope, kind)
        return made

    def _list_scopes(self, kinds: str, kind: str, call: Call) -> Response:
        replies, scopes = self._scopes(kind)
        limit, marker = call.query["limit"], call.query.get("marker", "")
        ids = sorted(id_ for id_ in scopes if id_ > marker)[: limit + 1]
        page = [scopes[id_] for id_ in ids[:limit]]
        next_link = next_page(call, ids, limit, str)
        return reply({kinds: page, "bounds": BOUNDS, "next": next_link, "silent": _silent(replies)})

    def _get_scope(self, kind: str, call: Call) -> Response:
        id_ = call.path["id"]
        replies, scopes = self._scopes(kind)
        if id_ not in scopes:
            raise NotFound(f"this host does not serve {kind} {id_}, and had no request from it")
        return reply({kind: scopes[id_], "bounds": BOUNDS, "silent": _silent(replies)})

    def _list_requests(self, call: Call) -> Response:
        limit, query = call.query["limit"], call.query
        scope = one_scope(query) if {"network", "router"} & set(query) else None
        listed = scope and [scope.kind, scope.id]
        replies = self._serving.ask("recent", limit=limit, scope=listed)
        return reply({"requests": _newest(replies, limit), "silent": _silent(replies)})

    def _get_instance(self, call: Call) -> Response:
        limit, id_ = call.query["limit"], call.path["id"]
        replies = self._serving.ask("recent", limit=limit, instance=id_)
        return reply({"id": id_, "requests": _newest(replies, limit), "silent": _silent(replies)})

    def _scopes(self, kind: str) -> tuple[Sequence[Reply], dict[str, dict[str, Any]]]:
        """The replies, and all networks or all routers by id."""
        replies = self._serving.ask("counters")
        scopes: dict[str, dict[str, Any]] = {}

        def scope(id_: str) -> dict[str, Any]:
            return scopes.setdefault(id_, {"id": id_, "listeners": [], "problems": [], "pipelines": {}})

        status = node_status.read(self._status_file)
        if status is not None and status.is_running:
            _add_listeners(status, kind, scope)
        for one in _answered(replies):
            for counters in one.answer["scopes"]:
                if counters["scope"] and counters["scope"][0] == kind:
                    _add_counters(scope(counters["scope"][1])["pipelines"], one.pipeline, counters)
        return replies, scopes


class ActionHandlers:
    """Handlers that make serving processes resolve an address, empty their caches, or reload."""

    def __init__(self, serving: ServingProcesses) -> None:
        self._serving = serving

    def handlers(self) -> Handlers:
        """Name of the operation -> handler."""
        return {"resolve": self._resolve, "purge_cache": self._purge, "reload": self._reload}

    def _resolve(self, call: Call) -> Response:
        query = call.query
        scope = one_scope(query)
        source = {"kind": scope.kind, "id": scope.id, "address": query["address"], "mac": query.get("mac")}
        cached = self._serving.ask("cache", **source)  # first: the answer to `resolve` goes into the caches
        found = self._first_answer(cached, source | {"fresh": query["fresh"]})
        return reply(
            {
                scope.kind: scope.id,
                "address": query["address"],
                "instance": found.answer.pop("instance"),
                "reason": found.answer.pop("reason"),
                "path": {"pipeline": found.pipeline, "pid": found.pid, **found.answer},
                "caches": [
                    {"pipeline": one.pipeline, "pid": one.pid, **one.answer} for one in _answered(cached)
                ],
                "silent": _silent(cached),
            }
        )

    def _first_answer(self, replies: list[Reply], question: Mapping[str, Any]) -> Reply:
        """The answer of the first process that has a resolver; raises the error of this process."""
        for one in replies:
            if one.error == BadRequest.__name__:
                raise BadRequest(one.problem)
            if not one.is_heard or one.error not in ("", _NOT_ASKABLE):
                continue
            for found in self._serving.ask("resolve", _RESOLVE_WITHIN, one.pid, **question):
                if found.error == _NOT_ASKABLE:
                    break
                if found.error == BadRequest.__name__:
                    raise BadRequest(found.problem)
                if found.problem:
                    raise Unavailable(f"process {found.pid} of pipeline {found.pipeline}: {found.problem}")
                return found
        raise Unavailable("no serving process of this host has a resolver, or no such process answers")

    def _purge(self, call: Call) -> Response:
        scope = _scope_to_purge(call.document)
        wanted: dict[str, Any] = {"kind": scope.kind, "id": scope.id} if scope else {}
        replies = self._serving.ask("purge", **wanted)
        _log(call, f"emptied the caches of {scope or 'all networks and routers'}")
        return reply(
            {
                "processes": [
                    {"pipeline": one.pipeline, "pid": one.pid, "dropped": one.answer["dropped"]}
                    for one in _answered(replies)
                ],
                "silent": _silent(replies),
            }
        )

    def _reload(self, call: Call) -> Response:
        """Ask one process after the other: several may have the same master, which gets one signal only."""
        _log(call, "lets the serving processes load their configuration again")
        signalled: list[int] = []
        results = []
        for one in self._serving.ask("process"):
            for answer in self._serving.ask("reload", _RELOAD_WITHIN, one.pid, told=signalled):
                process = {"pipeline": answer.pipeline, "pid": answer.pid}
                if answer.problem:
                    results.append(process | {"reloads": False, "text": answer.problem})
                    continue
                signalled += answer.answer["told"]
                result = {"reloads": answer.answer["reloads"], "text": answer.answer["text"]}
                results.append(process | result)
        return reply({"processes": results})


# --- what an operator asks for ----------------------------------------------------------


def one_scope(given: Mapping[str, Any]) -> Scope:
    """The scope that `network` or `router` names; raises `BadRequest` unless exactly one of them is there."""
    if "network" in given and "router" not in given:
        return Scope("network", given["network"])
    if "router" in given and "network" not in given:
        return Scope("router", given["router"])
    raise BadRequest("either network or router is needed")


def _scope_to_purge(document: Mapping[str, Any]) -> Scope | None:
    """None for all scopes; raises `BadRequest`."""
    if set(document) == {"all"} and document["all"] is True:
        return None
    if len(document) != 1 or not all(isinstance(value, str) and value for value in document.values()):
        raise BadRequest('{"network": ID}, {"router": ID} or {"all": true} is allowed')
    return one_scope(document)


def _log(call: Call, action: str) -> None:
    LOG.info("%s %s: %s", call.request_id, wire.one_line(str(call.operator)), wire.one_line(action))


# --- what the processes say -------------------------------------------------------------


def _answered(replies: Iterable[Reply]) -> list[Reply]:
    return [reply for reply in replies if not reply.problem]


def _silent(replies: Iterable[Reply]) -> list[dict[str, Any]]:
    """The processes that did not answer; the rest of the document is without their part."""
    return [
        {"pipeline": reply.pipeline, "pid": reply.pid, "problem": reply.problem}
        for reply in replies
        if not reply.is_heard
    ]


def _add_listeners(status: NodeStatus, kind: str, scope: Callable[[str], dict[str, Any]]) -> None:
    for one in status.listeners:
        if one.scope.kind == kind:
            listener = {"namespace": one.namespace, "address": one.address, "port": one.port}
            scope(one.scope.id)["listeners"].append(listener | {"since": _time(one.since)})
    for problem in status.plan.problems if status.plan else ():
        if problem.scope and problem.scope.kind == kind:
            scope(problem.scope.id)["problems"].append(problem.text)


def _add_counters(pipelines: dict[str, Any], name: str, new: dict[str, Any]) -> None:
    """Add the counters of one process to those of its pipeline. Two pipelines may count the same request."""
    first, last = _time(new["first"]), _time(new["last"])
    total = pipelines.setdefault(
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
    total["requests"] += new["count"]
    for status, count in new["statuses"].items():
        total["statuses"][status] = total["statuses"].get(status, 0) + count
    total["seconds"] = round(total["seconds"] + new["seconds"], 6)
    total["slowest"] = max(total["slowest"], new["slowest"])
    total["durations"] = [a + b for a, b in zip(total["durations"], new["durations"], strict=True)]
    total["first"], total["last"] = min(total["first"], first), max(total["last"], last)


def _newest(replies: Iterable[Reply], limit: int) -> list[dict[str, Any]]:
    """The last requests of all processes, the newest first."""
    requests = (
        {"pipeline": one.pipeline, "pid": one.pid, **request}
        for one in _answered(replies)
        for request in one.answer
    )
    return [_described(request) for request in heapq.nlargest(limit, requests, key=_time_of)]


def _time_of(request: dict[str, Any]) -> float:
    time: float = request["time"]
    return time


def _described(request: dict[str, Any]) -> dict[str, Any]:
    scope = request.pop("scope")
    network, router = (scope[1] if scope and scope[0] == kind else None for kind in ("network", "router"))
    return request | {"time": _time(request["time"]), "network": network, "router": router}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
