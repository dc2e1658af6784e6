"""The table, the verdicts, and the same as JSON."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.goals import Verdict
from bench.loads import Figures
from bench.paths import Row

_LEGEND = """\
One machine, one run. Times in ms, wall in s, memory in MiB (PSS of the path's processes, after the storm).
Closed loop: a fixed number of connections at a time, one request each; the upstream answers at once.
Storm: guests that ask one thing after the other, a connection each; the upstream takes 20 ms.
Idle: one request at a time; "above" is its p50 less that of the upstream called directly.
Others: the share of the machine, in %, that other programs used meanwhile; if above a few, run again."""
_NAME = "{:<34}"
_CLOSED_LOOP = "{:>7} {:>6} {:>6} {:>4}"
_STORM = "{:>6} {:>6} {:>6} {:>6} {:>4}"
_IDLE = "{:>6} {:>6}"
_LINE = f"{_NAME}| {_CLOSED_LOOP} | {_STORM} | {_IDLE} | {{:>6}} | {{:>6}}"


def heading() -> Iterator[str]:
    """What stands above the table."""
    yield _LEGEND
    yield ""
    yield f"{'':<34}| {'closed loop':^26} | {'storm':^32} | {'idle':^13} |        |"
    columns = "req/s p50 p99 err wall req/s p50 p99 err p50 above memory others"
    yield _LINE.format("path, server", *columns.split())


def line(row: Row, figures: Figures) -> str:
    """One row of the table."""
    if "failed" in figures:
        indented = figures["failed"].replace("\n", "\n    ")
        return _NAME.format(str(row)) + f"| failed: {indented}"
    closed, storm, idle = figures["closed_loop"], figures["storm"], figures["idle"]
    return _LINE.format(
        str(row),
        f"{closed['rate']:.0f}", ms(closed["p50"]), ms(closed["p99"]), closed["errors"],
        f"{storm['wall']:.2f}", f"{storm['rate']:.0f}", ms(storm["p50"]), ms(storm["p99"]), storm["errors"],
        ms(idle["p50"], 2), ms(idle["above_direct"], 2),
        f"{figures['memory'] / 2**20:.1f}",
        f"{figures['others'] * 100:.0f}",
    )  # fmt: skip


def verdicts(judged: Sequence[Verdict]) -> Iterator[str]:
    """What stands below the table."""
    yield ""
    yield "Goals; a path is judged by its best server:"
    for verdict in judged:
        yield f"  {'PASS' if verdict.passed else 'FAIL'}  {verdict.goal}"
        if verdict.values:
            yield "        " + ", ".join(f"{name} {value:.2f}" for name, value in verdict.values.items())


def document(results: Mapping[Row, Figures], judged: Sequence[Verdict]) -> dict[str, Any]:
    """All figures, in seconds and bytes."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rows": [{"path": row.path, "server": row.server, **figures} for row, figures in results.items()],
        "goals": [{"goal": v.goal, "passed": v.passed, "values": v.values} for v in judged],
    }


def ms(seconds: float | None, digits: int = 1) -> str:
    """Seconds in milliseconds."""
    return "-" if seconds is None else f"{seconds * 1000:.{digits}f}"
