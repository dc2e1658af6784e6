"""Figures of networks and routers, out of what the admin API counts since its processes began."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from typing import Any

# Where a request passes several pipelines of one host, who is nearest to the guest has seen all of it.
_NEAREST_FIRST = ("proxy", "combined", "standalone", "agent", "nova")


@dataclass(frozen=True, slots=True)
class Counters:
    """Requests of a place: how many, and by how long they took. Times are epoch seconds.

    The last of `durations` counts those above the last of the bounds.
    """

    pipeline: str
    requests: int
    refused: int  # 4xx
    failed: int  # 5xx, and those that got no answer
    durations: tuple[int, ...]
    slowest: float
    first: float
    last: float

    def since(self, before: "Counters | None") -> "Counters":
        """What was added; all of it when processes began anew meanwhile. `slowest` stays that of all."""
        if before is None or before.pipeline != self.pipeline or before.requests > self.requests:
            return self
        return replace(
            self,
            requests=self.requests - before.requests,
            refused=self.refused - before.refused,
            failed=self.failed - before.failed,
            durations=tuple(now - then for now, then in zip(self.durations, before.durations, strict=True)),
        )

    def within(self, bounds: Sequence[float], part: float) -> float | None:
        """Seconds within which this part of the requests was answered, interpolated; None without any."""
        sums = [0, *accumulate(self.durations)]
        wanted = part * sums[-1]
        if not wanted:
            return None
        bucket = bisect_left(sums, wanted) - 1
        if bucket >= len(bounds):
            return self.slowest
        below = bounds[bucket - 1] if bucket else 0.0
        width = bounds[bucket] - below
        return min(below + width * (wanted - sums[bucket]) / self.durations[bucket], self.slowest)


def counters(pipelines: Mapping[str, Any]) -> list[Counters]:
    """Those of a place's `pipelines`, as the API gives them, the nearest to the guest first."""
    return sorted((_counters(name, given) for name, given in pipelines.items()), key=_distance)


def seconds_of(time: str) -> float:
    """Epoch seconds of a time as the API writes it."""
    return datetime.fromisoformat(time).timestamp()


def _counters(pipeline: str, given: Mapping[str, Any]) -> Counters:
    statuses = given["statuses"]
    return Counters(
        pipeline,
        given["requests"],
        statuses.get("4xx", 0),
        statuses.get("5xx", 0) + statuses.get("0xx", 0),
        tuple(given["durations"]),
        given["slowest"],
        seconds_of(given["first"]),
        seconds_of(given["last"]),
    )


def _distance(one: Counters) -> tuple[int, str]:
    known = one.pipeline in _NEAREST_FIRST
    return (_NEAREST_FIRST.index(one.pipeline) if known else _NEAREST_FIRST.index("agent"), one.pipeline)


# --- as text ----------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """As `1.2 ms` or `3.4 s`; `-` for None."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def clock(seconds: float) -> str:
    """The local time of day, with the date when that is another."""
    then = datetime.fromtimestamp(seconds)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M:%S")
