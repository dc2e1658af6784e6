"""What was served, and lately: counters for each network and router, and the last requests themselves.

All of it is bounded, whatever guests do.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from mdmw.observe.counting import CLASSES, Counters, ForEach
from mdmw.observe.recording import Journal
from mdmw.records import Scope

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
