"""Counting requests that are over: for metrics, and for each network and router."""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from mdmw.observe.journal import Journal
from mdmw.records import Scope

CLASSES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")  # 0xx: no answer could be made
_UNUSUAL_STATUS = 600
_MOST_EVENTFUL = 20_000  # if nobody takes them
_LONGEST_TARGET = 500


class Counters:
    """Of some requests: how many, with which status, and how long they took. They only grow."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.classes = [0] * len(CLASSES)
        self.durations = [0] * (len(bounds) + 1)  # seconds: up to each bound but not the one before, and more
        self.seconds = self.slowest = 0.0
        self.first = self.last = 0.0  # when the first and the last of them came, since 1970

    def add(self, status: int, seconds: float, time: float) -> None:
        """One more."""
        if not any(self.classes):
            self.first = time
        self.last = time
        self.classes[status // 100 if 0 <= status < _UNUSUAL_STATUS else 0] += 1
        self.durations[bisect_left(self._bounds, seconds)] += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)


class ForAll:
    """Counts all requests together, and what each stage of them took."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.forget()

    def forget(self) -> None:
        """As `Observer`."""
        self.requests = Counters(self._bounds)
        self.stages: dict[str, Counters] = {}
        self.caches: dict[str, int] = {}  # requests for which the cache had this
        self._eventful: list[Journal] = []

    def take_eventful(self) -> list[Journal]:
        """Those that ended in an error or have notes, since they were last taken."""
        self._eventful, eventful = [], self._eventful
        return eventful

    def over(self, journal: Journal) -> None:
        """As `Observer`."""
        self.requests.add(journal.status, journal.seconds, journal.time)
        for stage, seconds in journal.stages.items():
            if (counters := self.stages.get(stage)) is None:
                counters = self.stages[stage] = Counters(self._bounds)
            counters.add(journal.status, seconds, journal.time)
        if journal.cache:
            self.caches[journal.cache] = self.caches.get(journal.cache, 0) + 1
        if (journal.error or journal.notes) and len(self._eventful) < _MOST_EVENTFUL:
            self._eventful.append(journal)


class ForEach:
    """Counts the requests of each scope, and hands each to `keep`, of a long target only the beginning.

    When there are `most` scopes of one kind, and another one comes, `make_room` is called with them.
    """

    def __init__(
        self,
        bounds: tuple[float, ...],
        most: int,
        make_room: Callable[[dict[str, Counters]], None],
        keep: Callable[[Journal], None],
    ) -> None:
        self._bounds = bounds
        self._most = most
        self._make_room = make_room
        self._keep = keep
        self.forget()

    def forget(self) -> None:
        """As `Observer`."""
        #: By kind and id; "" and "" where nobody was identified.
        self.scopes: dict[str, dict[str, Counters]] = {}

    def over(self, journal: Journal) -> None:
        """As `Observer`."""
        scope = journal.source.scope if journal.source else None
        kind, id_ = (scope.kind, scope.id) if scope else ("", "")
        of_kind = self.scopes.setdefault(kind, {})
        if (counters := of_kind.get(id_)) is None:
            if len(of_kind) >= self._most:
                self._make_room(of_kind)
            counters = of_kind[id_] = Counters(self._bounds)
        counters.add(journal.status, journal.seconds, journal.time)
        if len(journal.target) > _LONGEST_TARGET:
            journal.target = journal.target[:_LONGEST_TARGET]
        self._keep(journal)


#: Upper bounds of the histogram of durations, in seconds; what is longer is counted behind the last.
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_RECENT = 1000
_MOST_SCOPES = 10_000


class Tally:
    """Counts the requests of this process; `over` and `forget` are as of an `Observer`."""

    def __init__(self, most_scopes: int = _MOST_SCOPES) -> None:
        self._since = time.time()
        self._recent: deque[Journal] = deque(maxlen=_RECENT)
        self._counts = ForEach(BOUNDS, most_scopes, _forget_silent, self._recent.append)
        self.over = self._counts.over

    def forget(self) -> None:
        """As `Observer`."""
        self._counts.forget()
        self._recent.clear()

    def counters(self) -> dict[str, Any]:
        """The answer to `counters`."""
        scopes = [
            {"scope": [kind, id_] if kind else None, **_described(counters)}
            for kind, of_kind in self._counts.scopes.copy().items()
            for id_, counters in of_kind.copy().items()
        ]
        return {"since": self._since, "bounds": BOUNDS, "scopes": scopes}

    def recent(self, most: int, wanted: Callable[[Journal], bool]) -> list[dict[str, Any]]:
        """At most so many of the last requests that are `wanted`, the newest first."""
        found: list[dict[str, Any]] = []
        for journal in reversed(self._recent.copy()):
            if len(found) >= most:
                break
            if wanted(journal):
                found.append(described(journal))
        return found


def _forget_silent(of_kind: dict[str, Counters]) -> None:
    """A tenth of them, those from which nothing was heard for longest. Others may count meanwhile."""
    by_use = sorted(of_kind.copy().items(), key=lambda item: item[1].last)
    for id_, _ in by_use[: len(by_use) // 10]:
        of_kind.pop(id_, None)


def _described(counters: Counters) -> dict[str, Any]:
    return {
        "count": sum(counters.classes),
        "statuses": {name: count for name, count in zip(CLASSES, counters.classes, strict=True) if count},
        "seconds": round(counters.seconds, 6),
        "slowest": round(counters.slowest, 6),
        "durations": counters.durations,
        "first": counters.first,
        "last": counters.last,
    }


def described(journal: Journal) -> dict[str, Any]:
    """One request in JSON. Of its target only the path, since a query may hold anything."""
    source, instance = journal.source, journal.instance
    return {
        "time": journal.time,
        "request_id": journal.request_id,
        "address": source and source.address,
        "scope": source and listed(source.scope),
        "instance": instance and instance.id,
        "project": instance and instance.project_id,
        "method": journal.method[:20],
        "path": unquote(journal.target.partition("?")[0], errors="replace"),
        "status": journal.status,
        "bytes": journal.sent,
        "seconds": round(journal.seconds, 6),
        "stages": {stage: round(seconds, 6) for stage, seconds in journal.stages.items()},
        "cache": journal.cache,
        "error": journal.error,
        "notes": dict(journal.notes),
    }


def listed(scope: Scope) -> list[str]:
    """A scope in JSON."""
    return [scope.kind, scope.id]
