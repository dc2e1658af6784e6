"""What mdmw has to reach: most of it as a ratio to what was up at the same time."""

import collections
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.figures import Figures
from bench.paths import C_LIMIT, COMBINED, HAPROXY_AGENT, OBSERVED, PROXY_AGENT, Row

CLOSED_LOOP_AT_LEAST = {COMBINED: 0.5, HAPROXY_AGENT: 0.5, PROXY_AGENT: 0.25}
STORM_WALL_AT_MOST = {COMBINED: 1.5}
IDLE_ABOVE_DIRECT_AT_MOST = 0.0015  # seconds
OBSERVING_COSTS_AT_MOST = 0.05  # of what combined has on the same server

#: What was up at the same time, and the figures that each had.
Round = Mapping[Row, Figures]


@dataclass(frozen=True)
class Verdict:
    """One goal: what is asked, what each server has, and whether the best of them is enough.

    A value that was measured in `rounds` is their median.
    """

    goal: str
    passed: bool
    values: Mapping[str, float]
    rounds: Mapping[str, Sequence[float]] = field(default_factory=dict)


def judge(rounds: Sequence[Round]) -> Iterator[Verdict]:
    """The verdicts on what was measured; a path is judged by its best server, errors by all."""
    errors: collections.Counter[str] = collections.Counter()
    for each in rounds:
        errors.update({str(row): _errors(figures) for row, figures in each.items()})
    wrong = {name: float(count) for name, count in errors.items() if count}
    yield Verdict("no errors on any path", not wrong, wrong)

    for path, least in CLOSED_LOOP_AT_LEAST.items():
        found = {row.server: closed_loops(rounds, row, Row(C_LIMIT)) for row in _rows(rounds, path)}
        yield from _at_least(least, f"{path}: closed loop at least {least} of the C limit", found)
    for path, most in STORM_WALL_AT_MOST.items():
        found = {row.server: storms(rounds, row, Row(C_LIMIT)) for row in _rows(rounds, path)}
        yield from _at_most(most, f"{path}: storm takes at most {most} times the C limit", found)
    most = IDLE_ABOVE_DIRECT_AT_MOST * 1000
    for path in (COMBINED, HAPROXY_AGENT, PROXY_AGENT):
        found = {row.server: _idle(rounds, row) for row in _rows(rounds, path)}
        yield from _at_most(most, f"{path}: idle p50 at most {most} ms above direct", found)
    for what, cost in (("closed loop", _rates_lost), ("storm", _walls_gained)):
        found = {row.server: cost(rounds, row.server) for row in _rows(rounds, OBSERVED)}
        goal = f"logs, metrics, introspection: {what} at most {OBSERVING_COSTS_AT_MOST:.0%} worse, median"
        yield from _at_most(OBSERVING_COSTS_AT_MOST, goal, found, judged=statistics.median)


def closed_loops(rounds: Sequence[Round], row: Row, base: Row) -> list[float]:
    """The rate of `row` as a ratio to that of `base`, in each round that had both."""
    return _ratios(rounds, row, base, "closed_loop", "rate")


def storms(rounds: Sequence[Round], row: Row, base: Row) -> list[float]:
    """The wall time of the storm through `row` as a ratio to that through `base`, likewise."""
    return _ratios(rounds, row, base, "storm", "wall")


def _rates_lost(rounds: Sequence[Round], server: str) -> list[float]:
    return [1 - ratio for ratio in closed_loops(rounds, Row(OBSERVED, server), Row(COMBINED, server))]


def _walls_gained(rounds: Sequence[Round], server: str) -> list[float]:
    return [ratio - 1 for ratio in storms(rounds, Row(OBSERVED, server), Row(COMBINED, server))]


def _idle(rounds: Sequence[Round], row: Row) -> list[float]:
    return [each[row]["idle"]["above_direct"] * 1000 for each in rounds if _measured(each, row)]


def _ratios(rounds: Sequence[Round], row: Row, base: Row, load: str, figure: str) -> list[float]:
    return [
        each[row][load][figure] / each[base][load][figure]
        for each in rounds
        if _measured(each, row) and _measured(each, base)
    ]


def _measured(each: Round, row: Row) -> bool:
    return row in each and "failed" not in each[row]


def _rows(rounds: Sequence[Round], path: str) -> list[Row]:
    return list(dict.fromkeys(row for each in rounds for row in each if row.path == path))


def _at_least(bound: float, goal: str, found: Mapping[str, list[float]]) -> Iterator[Verdict]:
    for values in _medians(found):
        yield Verdict(goal, max(values.values()) >= bound, values, found)


def _at_most(
    bound: float,
    goal: str,
    found: Mapping[str, list[float]],
    judged: Callable[[Iterable[float]], float] = min,
) -> Iterator[Verdict]:
    for values in _medians(found):
        yield Verdict(goal, judged(values.values()) <= bound, values, found)


def _medians(found: Mapping[str, list[float]]) -> Iterator[dict[str, float]]:
    """Of each server that has values; nothing when none has."""
    if values := {name: statistics.median(each) for name, each in found.items() if each}:
        yield values


def _errors(figures: Figures) -> int:
    if "failed" in figures:
        return 1
    return sum(load["errors"] for load in figures.values() if isinstance(load, dict))
