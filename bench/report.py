"""The table, the verdicts, and the same as JSON."""

import os
import platform
import statistics
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.figures import Figures, medians
from bench.goals import Round, Verdict, closed_loops, storms
from bench.paths import ROWS, TWO_HOPS, Row

_LEGEND = """\
One machine, one run. Times in ms, wall in s, memory in MiB (PSS of the path's processes, after the storm).
Rounds: {rounds}; figures are medians, errors are sums. In each round the paths of one server and the two-hop
limit are up together. Ratio: the figure before it, divided by that of the two-hop limit in the same round.
Closed loop: a fixed number of connections at a time, one request each; the upstream answers at once.
Storm: guests that ask one thing after the other, a connection each; the upstream takes 20 ms.
Idle: one request at a time; "above" is its p50 less that of the upstream called directly.
Others: the share of the machine, in %, that other programs used meanwhile; if above a few, run again.
{python}"""
_NAME = "{:<34}"
_CLOSED_LOOP = "{:>5} {:>5} {:>5} {:>6} {:>3}"
_STORM = "{:>5} {:>5} {:>5} {:>6} {:>3}"
_IDLE = "{:>5} {:>5}"
_LINE = f"{_NAME}| {_CLOSED_LOOP} | {_STORM} | {_IDLE} | {{:>6}} | {{:>6}}"


def results(rounds: Sequence[Round]) -> dict[Row, Figures]:
    """The figures of each row that was measured beside the two-hop limit, and its ratios to the limit."""
    found: dict[Row, Figures] = {}
    limit = Row(TWO_HOPS)
    beside = [each for each in rounds if limit in each]
    measured = dict.fromkeys(row for each in beside for row in each)
    for row in sorted(measured, key=_order):
        several = [each[row] for each in beside if row in each]
        problems = [figures["failed"] for figures in several if "failed" in figures]
        if problems:
            found[row] = {"failed": f"in {len(problems)} of {len(several)} rounds: {problems[0]}"}
        elif several:
            found[row] = medians(several)
            found[row]["ratios"] = {
                "closed_loop": closed_loops(beside, row, limit),
                "storm": storms(beside, row, limit),
            }
    return found


def _order(row: Row) -> tuple[int, bool]:
    return ROWS.index(replace(row, checkout=None)), bool(row.checkout)


def table(measured: Mapping[Row, Figures], rounds: int) -> Iterator[str]:
    """The legend, and a line for each row."""
    yield _LEGEND.format(rounds=rounds, python=python())
    yield ""
    yield f"{'':<34}| {'closed loop':^28} | {'storm':^28} | {'idle':^11} |        |"
    columns = "req/s ratio p50 p99 err wall ratio p50 p99 err p50 above memory others"
    yield _LINE.format("path, server", *columns.split())
    for row, figures in measured.items():
        yield _line(row, figures)


def verdicts(judged: Sequence[Verdict]) -> Iterator[str]:
    """What stands below the table."""
    yield ""
    yield "Goals; a path is judged by its best server:"
    for verdict in judged:
        yield f"  {'PASS' if verdict.passed else 'FAIL'}  {verdict.goal}"
        if verdict.values:
            yield "        " + ", ".join(f"{name} {value:.2f}" for name, value in verdict.values.items())


def beside(rounds: Sequence[Round]) -> Iterator[str]:
    """How this checkout compares with the other one, where that was measured too."""
    twins = dict.fromkeys(row for each in rounds for row in each if row.checkout)
    for index, twin in enumerate(twins):
        if not index:
            yield ""
            yield f"This checkout's figure divided by that of {twin.checkout}, median of the rounds:"
        row = replace(twin, checkout=None)
        rate, wall = (_ratio(ratios(rounds, row, twin)) for ratios in (closed_loops, storms))
        yield f"  {row}: closed loop {rate}, storm {wall}"


def document(measured: Mapping[Row, Figures], judged: Sequence[Verdict]) -> dict[str, Any]:
    """All figures, in seconds and bytes; of ratios and of what goals are about, also each round's."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "python_build": python(),
        "rows": [
            {"path": row.path, "server": row.server, "beside": bool(row.checkout), **figures}
            for row, figures in measured.items()
        ],
        "goals": [
            {"goal": v.goal, "passed": v.passed, "values": v.values, "rounds": v.rounds} for v in judged
        ],
    }


def python() -> str:
    """The interpreter of this process, which servers beside it have too, and what is known of its build."""
    words = ["Python", platform.python_version(), f"({Path(sys.executable).resolve()})"]
    if "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        words.append("with --enable-optimizations")
    # Debian optimises without that option, and removes these flags from the record.
    elif "-fprofile" in (sysconfig.get_config_var("PGO_PROF_USE_FLAG") or ""):
        words.append("without --enable-optimizations")
    return " ".join(words)


def ms(seconds: float | None, digits: int = 1) -> str:
    """Seconds in milliseconds."""
    return "-" if seconds is None else f"{seconds * 1000:.{digits}f}"


def _line(row: Row, figures: Figures) -> str:
    if "failed" in figures:
        indented = figures["failed"].replace("\n", "\n    ")
        return _NAME.format(str(row)) + f"| failed: {indented}"
    closed, storm, idle, ratios = (figures[name] for name in ("closed_loop", "storm", "idle", "ratios"))
    return _LINE.format(
        str(row),
        f"{closed['rate']:.0f}", _ratio(ratios["closed_loop"]),
        ms(closed["p50"]), ms(closed["p99"]), closed["errors"],
        f"{storm['wall']:.2f}", _ratio(ratios["storm"]),
        ms(storm["p50"]), ms(storm["p99"]), storm["errors"],
        ms(idle["p50"], 2), ms(idle["above_direct"], 2),
        f"{figures['memory'] / 2**20:.1f}",
        f"{figures['others'] * 100:.0f}",
    )  # fmt: skip


def _ratio(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f}" if ratios else "-"
