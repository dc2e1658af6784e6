"""Figures about requests, from the counters of the admin API, and durations and times as text."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from typing import Any

#: If a request passes several pipelines of a host, the pipeline nearest to the guest has all of its duration.
_NEAREST_FIRST = ("proxy", "combined", "standalone", "agent", "nova")


@dataclass(frozen=True, slots=True)
class RequestFigures:
    """The requests of one network or router in one pipeline. Times are seconds since 1970.

    `durations` has the number of requests up to each bound, in seconds, and last the number above all bounds.
    """

    pipeline: str
    requests: int
    refused: int  # 4xx
    failed: int  # 5xx, and requests without an answer
    durations: tuple[int, ...]
    slowest: float
    first: float
    last: float

    def since(self, before: "RequestFigures | None") -> "RequestFigures":
        """What was added since `before`; all of it if the processes have started again meanwhile.

        `slowest` stays the longest duration of all requests.
        """
        if before is None or before.pipeline != self.pipeline or before.requests > self.requests:
            return self
        return replace(
            self,
            requests=self.requests - before.requests,
            refused=self.refused - before.refused,
            failed=self.failed - before.failed,
            durations=tuple(now - then for now, then in zip(self.durations, before.durations, strict=True)),
        )

    def percentile(self, bounds: Sequence[float], part: float) -> float | None:
        """Seconds in which this part of the requests was answered, interpolated; None without requests."""
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


def figures_of(pipelines: Mapping[str, Any]) -> list[RequestFigures]:
    """The figures of `pipelines`, as the API has them for a network or router; nearest to the guest first."""
    found = [_figures(name, counters) for name, counters in pipelines.items()]
    return sorted(found, key=lambda figures: (_distance(figures.pipeline), figures.pipeline))


def _figures(pipeline: str, counters: Mapping[str, Any]) -> RequestFigures:
    statuses = counters["statuses"]
    return RequestFigures(
        pipeline,
        counters["requests"],
        statuses.get("4xx", 0),
        statuses.get("5xx", 0) + statuses.get("0xx", 0),
        tuple(counters["durations"]),
        counters["slowest"],
        seconds_of(counters["first"]),
        seconds_of(counters["last"]),
    )


def _distance(pipeline: str) -> int:
    """From the guest; a pipeline of another name counts as an agent."""
    return _NEAREST_FIRST.index(pipeline if pipeline in _NEAREST_FIRST else "agent")


def seconds_of(time: str) -> float:
    """Seconds since 1970 of a time as the API writes it."""
    return datetime.fromisoformat(time).timestamp()


def duration(seconds: float | None) -> str:
    """`1.2 ms` or `3.4 s`; `-` for None."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def clock(seconds: float) -> str:
    """The local time of day, with the date if the date is not today."""
    then = datetime.fromtimestamp(seconds)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M:%S")
