"""What was served, and lately: counters for each network and router, and the last requests themselves.

All of it is bounded, whatever guests do.
"""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from mdmw.observe.recording import Journal
from mdmw.records import Scope

#: Upper bounds of the histogram of durations, in seconds; what is longer is counted behind the last.
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_RECENT = 1000
_MOST_SCOPES = 10_000
_CLASSES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")  # 0xx: no answer could be made
_UNUSUAL = 600


class _Counters:
    __slots__ = ("classes", "durations", "first", "last", "seconds", "slowest")

    def __init__(self, first: float) -> None:
        self.classes = [0] * len(_CLASSES)
        self.durations = [0] * (len(BOUNDS) + 1)
        self.seconds = self.slowest = 0.0
        self.first = self.last = first

    def as_dict(self) -> dict[str, Any]:
        return {
            "count": sum(self.classes),
            "statuses": {name: count for name, count in zip(_CLASSES, self.classes, strict=True) if count},
            "seconds": round(self.seconds, 6),
            "slowest": round(self.slowest, 6),
            "durations": self.durations,
            "first": self.first,
            "last": self.last,
        }


class Tally:
    """Counts the requests of this process. Not thread-safe but for reading."""

    def __init__(self, most_scopes: int = _MOST_SCOPES) -> None:
        self._since = time.time()
        self._most_scopes = most_scopes
        self._recent: deque[Journal] = deque(maxlen=_RECENT)
        self._by_kind: dict[str, dict[str, _Counters]] = {"network": {}, "router": {}, "": {}}

    def add(self, journals: Sequence[Journal]) -> None:
        """Requests that are over."""
        for journal in journals:
            source = journal.source
            if source is None:
                counters = self._counters("", "", journal)
            else:
                scope = source.scope
                counters = self._by_kind[scope.kind].get(scope.id) or self._counters(
                    scope.kind, scope.id, journal
                )
            seconds = journal.seconds
            status = journal.status
            counters.classes[status // 100 if status < _UNUSUAL else 0] += 1
            counters.durations[bisect_left(BOUNDS, seconds)] += 1
            counters.seconds += seconds
            counters.last = journal.time
            if seconds > counters.slowest:
                counters.slowest = seconds
        self._recent.extend(journals)

    def counters(self) -> dict[str, Any]:
        """The answer to `counters`."""
        scopes = [
            {"scope": [kind, id_] if kind else None, **counters.as_dict()}
            for kind, of_kind in self._by_kind.items()
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

    def _counters(self, kind: str, id_: str, journal: Journal) -> _Counters:
        of_kind = self._by_kind[kind]
        counters = of_kind.get(id_)
        if counters is None:
            counters = of_kind[id_] = _Counters(journal.time)
            if len(of_kind) > self._most_scopes:
                by_use = sorted(of_kind, key=lambda id_: of_kind[id_].last)
                for old in by_use[: self._most_scopes // 10]:
                    del of_kind[old]
        return counters


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
