"""What serving processes are asked to do: say who somebody is, forget, load their configuration again."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from webob import Response

from mdmw import wire
from mdmw.admin.answers import reply
from mdmw.admin.call import Call
from mdmw.admin.processes import Processes, answered, silent
from mdmw.errors import BadRequest, Unavailable
from mdmw.observe.processes import Reply
from mdmw.records import Scope

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
