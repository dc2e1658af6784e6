"""What mdmw has to reach: most of it as a ratio to what was up at the same time."""

import collections
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.figures import Figures
from bench.paths import COMBINED, HAPROXY_AGENT, OBSERVED, PROXY_AGENT, TWO_HOPS, Row
from bench.servers import MDMW_NODE

CLOSED_LOOP_AT_LEAST = {COMBINED: 0.5, HAPROXY_AGENT: 0.5, PROXY_AGENT: 0.25}
STORM_WALL_AT_MOST = {COMBINED: 1.5}
IDLE_ABOVE_DIRECT_AT_MOST = 0.0015  # seconds
NODE_CLOSED_LOOP_AT_LEAST = 0.5
NODE_STORM_WALL_AT_MOST = 1.8
# Of what combined has on the same server.
OBSERVED_CLOSED_LOOP_SLOWER_AT_MOST = 0.10
OBSERVED_STORM_LONGER_AT_MOST = 0.05

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

    limit = Row(TWO_HOPS)
    for path, least in CLOSED_LOOP_AT_LEAST.items():
        found = {row.server: closed_loops(rounds, row, limit) for row in _rows(rounds, path)}
        yield from _at_least(least, _closed_loop_goal(path, least), found)
    for path, most in STORM_WALL_AT_MOST.items():
        found = {row.server: storms(rounds, row, limit) for row in _rows(rounds, path)}
        yield from _at_most(most, _storm_goal(path, most), found)
    node, least, most = Row(COMBINED, MDMW_NODE), NODE_CLOSED_LOOP_AT_LEAST, NODE_STORM_WALL_AT_MOST
    yield from _at_least(
        least, _closed_loop_goal(MDMW_NODE, least), {MDMW_NODE: closed_loops(rounds, node, limit)}
    )
    yield from _at_most(most, _storm_goal(MDMW_NODE, most), {MDMW_NODE: storms(rounds, node, limit)})
    most = IDLE_ABOVE_DIRECT_AT_MOST * 1000
    for path in (COMBINED, HAPROXY_AGENT, PROXY_AGENT):
        found = {row.server: _idle(rounds, row) for row in _rows(rounds, path)}
        yield from _at_most(most, f"{path}: idle p50 at most {most} ms above direct", found)
    for what, cost, most in (
        ("closed loop at most {:.0%} slower", _rates_lost, OBSERVED_CLOSED_LOOP_SLOWER_AT_MOST),
        ("storm at most {:.0%} longer", _walls_gained, OBSERVED_STORM_LONGER_AT_MOST),
    ):
        found = {row.server: cost(rounds, row.server) for row in _rows(rounds, OBSERVED)}
        goal = f"observed: {what.format(most)} than combined, median of the servers"
        yield from _at_most(most, goal, found, judged=statistics.median)


def _closed_loop_goal(who: str, least: float) -> str:
    return f"{who}: closed loop at least {least} of the two-hop limit"


def _storm_goal(who: str, most: float) -> str:
    return f"{who}: storm takes at most {most} times the two-hop limit"


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
    """Of this checkout."""
    return list(
        dict.fromkeys(row for each in rounds for row in each if row.path == path and not row.checkout)
    )


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
