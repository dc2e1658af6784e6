"""Counting requests that are over: all of a pipeline, and those of each network and router.

Numbers only grow, and all of it is bounded, whatever guests do.
"""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from mdmw.observe.journal import Journal
from mdmw.records import Scope

#: Classes of statuses; 0xx are the requests for which no answer could be made.
CLASSES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")

#: Upper bounds of the durations of requests by scope, in seconds; longer ones are counted behind the last.
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_UNUSUAL_STATUS = 600
_MOST_EVENTFUL = 20_000  # journals, if nobody takes them
_LONGEST_TARGET = 500  # characters that are kept of a request
_RECENT = 1000  # requests
_MOST_SCOPES = 10_000


class Counters:
    """Some requests: how many, by class of status and by duration (`bounds` in seconds)."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.classes = [0] * len(CLASSES)
        self.durations = [0] * (len(bounds) + 1)  # up to each bound but not the one before, and more
        self.seconds = self.slowest = 0.0
        self.first = self.last = 0.0  # Unix times at which the first and the last request came

    def add(self, status: int, seconds: float, time: float) -> None:
        """Count one request."""
        if not self.last:
            self.first = time
        self.last = time
        self.classes[status // 100 if 0 <= status < _UNUSUAL_STATUS else 0] += 1
        self.durations[bisect_left(self._bounds, seconds)] += 1
        self.seconds += seconds
        if seconds > self.slowest:
            self.slowest = seconds


class PipelineCounters:
    """All requests of a pipeline, what each stage of them took, and what the cache had."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.requests = Counters(bounds)
        self.stages: dict[str, Counters] = {}
        self.caches: dict[str, int] = {}  # outcome -> requests
        self._eventful: list[Journal] = []

    def add(self, journals: Sequence[Journal]) -> None:
        """Count requests."""
        stages, requests = self.stages, self.requests
        for journal in journals:
            requests.add(journal.status, journal.seconds, journal.time)
            for stage, seconds in journal.stages.items():
                if (counters := stages.get(stage)) is None:
                    counters = stages[stage] = Counters(self._bounds)
                counters.add(journal.status, seconds, journal.time)
            if journal.cache:
                self.caches[journal.cache] = self.caches.get(journal.cache, 0) + 1
            if (journal.error or journal.notes) and len(self._eventful) < _MOST_EVENTFUL:
                self._eventful.append(journal)

    def take_eventful(self) -> list[Journal]:
        """The journals that have an error or notes, and were not taken yet."""
        self._eventful, eventful = [], self._eventful
        return eventful


class ServedRequests:
    """The requests of each network and router, and the last requests themselves."""

    def __init__(self, most_scopes: int = _MOST_SCOPES) -> None:
        self._most_scopes = most_scopes
        self._since = time.time()
        self._recent: deque[Journal] = deque(maxlen=_RECENT)
        #: By kind and id of the scope; "" and "" where nobody was identified.
        self._scopes: dict[str, dict[str, Counters]] = {}

    def add(self, journals: Sequence[Journal]) -> None:
        """Count requests, and keep them as the last ones."""
        for journal in journals:
            scope = journal.source.scope if journal.source else None
            kind, id_ = (scope.kind, scope.id) if scope else ("", "")
            of_kind = self._scopes.setdefault(kind, {})
            if (counters := of_kind.get(id_)) is None:
                if len(of_kind) >= self._most_scopes:
                    _forget_silent(of_kind)
                counters = of_kind[id_] = Counters(BOUNDS)
            counters.add(journal.status, journal.seconds, journal.time)
            if len(journal.target) > _LONGEST_TARGET:
                journal.target = journal.target[:_LONGEST_TARGET]
            self._recent.append(journal)

    def counters(self) -> dict[str, Any]:
        """The answer to the question `counters`, as JSON has it."""
        scopes = [
            {"scope": [kind, id_] if kind else None, **_described(counters)}
            for kind, of_kind in self._scopes.copy().items()
            for id_, counters in of_kind.copy().items()
        ]
        return {"since": self._since, "bounds": BOUNDS, "scopes": scopes}

    def recent(self, most: int, concerns: Callable[[Journal], bool]) -> list[dict[str, Any]]:
        """The last requests for which `concerns` is true, the newest first, `most` at most."""
        found: list[dict[str, Any]] = []
        for journal in reversed(self._recent.copy()):
            if len(found) >= most:
                break
            if concerns(journal):
                found.append(described(journal))
        return found


def _forget_silent(of_kind: dict[str, Counters]) -> None:
    """Drop the tenth of the scopes that was silent for longest. Other threads may count meanwhile."""
    by_use = sorted(of_kind.copy().items(), key=lambda item: item[1].last)
    for id_, _ in by_use[: max(len(by_use) // 10, 1)]:
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
    """One request in JSON. Of its target only the path is shown, since a query may hold anything."""
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
    """A scope in JSON: its kind and its id."""
    return [scope.kind, scope.id]
