"""What mdmw has to reach, as ratios to the C limit of the same run."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.loads import Figures
from bench.paths import C_LIMIT, COMBINED, HAPROXY_AGENT, OBSERVED, PROXY_AGENT, Row

CLOSED_LOOP_AT_LEAST = {COMBINED: 0.5, HAPROXY_AGENT: 0.5, PROXY_AGENT: 0.25}
STORM_WALL_AT_MOST = {COMBINED: 1.5}
IDLE_ABOVE_DIRECT_AT_MOST = 0.0015  # seconds
OBSERVING_COSTS_AT_MOST = 0.05  # of what combined has on the same server


@dataclass(frozen=True)
class Verdict:
    """One goal: what is asked, what each server has, and whether the best of them is enough."""

    goal: str
    passed: bool
    values: Mapping[str, float]


def judge(results: Mapping[Row, Figures]) -> Iterator[Verdict]:
    """The verdicts on what was measured; a path is judged by its best server, errors by all."""
    errors = {str(row): float(_errors(figures)) for row, figures in results.items()}
    wrong = {name: count for name, count in errors.items() if count}
    yield Verdict("no errors on any path", not wrong, wrong)

    limit = _servers(results, C_LIMIT).get("")
    for path, least in CLOSED_LOOP_AT_LEAST.items():
        if limit and (servers := _servers(results, path)):
            ratios = {s: f["closed_loop"]["rate"] / limit["closed_loop"]["rate"] for s, f in servers.items()}
            goal = f"{path}: closed loop at least {least} of the C limit"
            yield Verdict(goal, max(ratios.values()) >= least, ratios)
    for path, most in STORM_WALL_AT_MOST.items():
        if limit and (servers := _servers(results, path)):
            ratios = {s: f["storm"]["wall"] / limit["storm"]["wall"] for s, f in servers.items()}
            goal = f"{path}: storm takes at most {most} times the C limit"
            yield Verdict(goal, min(ratios.values()) <= most, ratios)
    for path in (COMBINED, HAPROXY_AGENT, PROXY_AGENT):
        if servers := _servers(results, path):
            above = {s: f["idle"]["above_direct"] * 1000 for s, f in servers.items()}
            goal = f"{path}: idle p50 at most {IDLE_ABOVE_DIRECT_AT_MOST * 1000} ms above direct"
            yield Verdict(goal, min(above.values()) <= IDLE_ABOVE_DIRECT_AT_MOST * 1000, above)
    plain, observed = _servers(results, COMBINED), _servers(results, OBSERVED)
    if both := [server for server in plain if server in observed]:
        for what, cost in (("closed loop", _rate_lost), ("storm", _wall_gained)):
            costs = {server: cost(plain[server], observed[server]) for server in both}
            goal = f"logs, metrics, introspection: {what} at most {OBSERVING_COSTS_AT_MOST:.0%} worse, median"
            yield Verdict(goal, statistics.median(costs.values()) <= OBSERVING_COSTS_AT_MOST, costs)


def _rate_lost(plain: Figures, observed: Figures) -> float:
    return float(1 - observed["closed_loop"]["rate"] / plain["closed_loop"]["rate"])


def _wall_gained(plain: Figures, observed: Figures) -> float:
    return float(observed["storm"]["wall"] / plain["storm"]["wall"] - 1)


def _servers(results: Mapping[Row, Figures], path: str) -> dict[str, Figures]:
    return {row.server: f for row, f in results.items() if row.path == path and "failed" not in f}


def _errors(figures: Figures) -> int:
    if "failed" in figures:
        return 1
    return sum(load["errors"] for load in figures.values() if isinstance(load, dict))
