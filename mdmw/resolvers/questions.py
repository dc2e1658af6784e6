"""The questions about a resolver, and the cache in front of it, that a serving process answers."""

import time
from typing import Any

from mdmw.errors import BadRequest, NotFound, NotIdentified
from mdmw.observe.journal import RESOLVER_CALL, Journal
from mdmw.records import Instance, Scope, Source, normalise_address, normalise_mac
from mdmw.resolvers.back_end import NoInstance
from mdmw.resolvers.caching import Caching
from mdmw.resolvers.contract import Resolver


class Questions:
    """Answers questions about one resolver. `kind` and `id` name a scope. All times are seconds."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._cache = resolver if isinstance(resolver, Caching) else None
        self._back_end = resolver.resolver if isinstance(resolver, Caching) else resolver

    def resolve(
        self, kind: str, id: str, address: str, mac: str | None = None, fresh: bool = False
    ) -> dict[str, Any]:
        """The instance of a source, found as for a guest. `calls`: the questions to the back end."""
        source = _source(kind, id, address, mac)
        instance, reason = None, ""
        journal = Journal("", "")
        try:
            if self._cache is not None:
                instance = self._cache.resolve(source, fresh=fresh, journal=journal)
            else:
                instance = self._resolver.resolve(source, fresh=fresh)
        except NotIdentified as error:
            reason = str(error)
        return {
            "instance": instance and _described(instance),
            "reason": reason,
            "cache": journal.cache,
            "calls": journal.notes.get(RESOLVER_CALL, 0),
            "seconds": round(time.perf_counter() - journal.began, 6),
            "resolver": type(self._back_end).__name__,
        }

    def cache(self, kind: str, id: str, address: str, mac: str | None = None) -> dict[str, Any]:
        """What the cache has of a source and of its scope; asks no back end. Raises `NotFound`."""
        if self._cache is None:
            raise NotFound("this process has no cache: its resolver answers from memory")
        now = self._cache.clock()
        source = _source(kind, id, address, mac)
        answers, snapshot = self._cache.peek(source)
        described: dict[str, Any] | None = None
        if snapshot is not None:
            age = round(now - snapshot.as_of, 3)
            described = {"age": age, "ports": snapshot.ports, **_found(snapshot.found)}
        return {
            "answers": [
                {
                    "mac": seen,
                    "instance": answer.instance and _described(answer.instance),
                    "reason": answer.reason,
                    "age": round(now - answer.as_of, 3),
                    "expires_in": round(answer.expires - now, 3),
                    "idle": round(now - answer.last_used, 3),
                    "sure": answer.confirmed,
                }
                for seen, answer in answers
            ],
            "snapshot": described,
        }

    def purge(self, kind: str | None = None, id: str | None = None) -> dict[str, Any]:
        """Forget a scope, or everything. `dropped` is the number of entries and snapshots of this process."""
        scope = None if kind is None and id is None else _scope(kind, id)
        dropped, shared = (0, False) if self._cache is None else self._cache.purge(scope)
        return {"dropped": dropped, "shared": shared}

    def check(self) -> str:
        """Says that the back end can be asked; raises `Unavailable`."""
        check = getattr(self._back_end, "check", None)
        return "there is nothing to check" if check is None else str(check())


def _source(kind: str, id_: str, address: str, mac: str | None) -> Source:
    if not isinstance(address, str) or not isinstance(mac, str | None):
        raise BadRequest("address and mac must be texts")
    try:
        return Source(normalise_address(address), _scope(kind, id_), normalise_mac(mac) if mac else None)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _scope(kind: Any, id_: Any) -> Scope:
    if kind not in ("network", "router") or not isinstance(id_, str):
        raise BadRequest("kind must be network or router, and id must be a text")
    return Scope(kind, id_)


def _described(instance: Instance) -> dict[str, str]:
    return {"id": instance.id, "project_id": instance.project_id, "port_id": instance.port_id}


def _found(found: Instance | NoInstance | None) -> dict[str, Any]:
    if isinstance(found, Instance):
        return {"instance": _described(found), "reason": ""}
    return {"instance": None, "reason": "" if found is None else found.reason}
