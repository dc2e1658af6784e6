"""What a serving process answers about its resolver and the cache in front of it."""

import time
from typing import Any

from mdmw.errors import BadRequest, NotFound, NotIdentified
from mdmw.observe.journal import RESOLVER_CALL, Journal
from mdmw.records import Instance, Scope, Source, normalise_address, normalise_mac
from mdmw.resolvers.back_end import Absent
from mdmw.resolvers.caching import Caching
from mdmw.resolvers.contract import Resolver


class Questions:
    """The questions about one resolver. `kind` and `id` are those of a scope; all times are seconds."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._cache = resolver if isinstance(resolver, Caching) else None
        self._back_end = resolver.resolver if isinstance(resolver, Caching) else resolver

    def resolve(
        self, kind: str, id: str, address: str, mac: str | None = None, fresh: bool = False
    ) -> dict[str, Any]:
        """Who is this, found as for a guest; `calls` is how often the back end was asked for it."""
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
        """What is remembered of a source, and of its scope as a whole; nobody is asked."""
        if self._cache is None:
            raise NotFound("this process remembers nothing: its resolver answers from memory")
        now = self._cache.clock()
        source = _source(kind, id, address, mac)
        answers, snapshot = self._cache.look(source)
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
                    "expires_in": round(answer.until - now, 3),
                    "idle": round(now - answer.used, 3),
                    "sure": answer.sure,
                }
                for seen, answer in answers
            ],
            "snapshot": described,
        }

    def purge(self, kind: str | None = None, id: str | None = None) -> dict[str, Any]:
        """Forget a scope, or everything; `dropped` is how many answers and snapshots that were."""
        scope = None if kind is None and id is None else _scope(kind, id)
        dropped, shared = (0, False) if self._cache is None else self._cache.purge(scope)
        return {"dropped": dropped, "shared": shared}

    def check(self) -> str:
        """Whether the back end can be asked; raises `Unavailable`."""
        check = getattr(self._back_end, "check", None)
        return "there is nothing to check" if check is None else str(check())


def _source(kind: str, id_: str, address: str, mac: str | None) -> Source:
    if not isinstance(address, str) or not isinstance(mac, str | None):
        raise BadRequest("address and mac are texts")
    try:
        return Source(normalise_address(address), _scope(kind, id_), normalise_mac(mac) if mac else None)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _scope(kind: Any, id_: Any) -> Scope:
    if kind not in ("network", "router") or not isinstance(id_, str):
        raise BadRequest("kind: network or router is allowed; and an id beside it")
    return Scope(kind, id_)


def _described(instance: Instance) -> dict[str, str]:
    return {"id": instance.id, "project_id": instance.project_id, "port_id": instance.port_id}


def _found(found: Instance | Absent | None) -> dict[str, Any]:
    if isinstance(found, Instance):
        return {"instance": _described(found), "reason": ""}
    return {"instance": None, "reason": "" if found is None else found.reason}
