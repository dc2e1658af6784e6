"""`python -m bench`: every path on every server, one table, and a verdict on the goals. Needs root."""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench import haproxies, report
from bench.goals import judge
from bench.loads import Figures, Loads, Sizes
from bench.paths import C_LIMIT, ROWS, Node, Row
from bench.processes import NotReady, memory
from bench.topology import topology
from bench.usage import Usage

_QUICK = Sizes(warm_up=1, seconds=2, guests=100, idle=50)
_TOOLS = ("ip", "haproxy", "wrk")


def main() -> int:
    """Measure, print, write; 0 when all goals are reached."""
    options = _options()
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        return _refuse(f"needs {', '.join(missing)}")
    if os.geteuid():
        return _refuse("needs root, for network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that finally runs

    rows = [row for row in ROWS if options.only in str(row) or row.path == C_LIMIT]
    results = measure(rows, _QUICK if options.quick else Sizes())
    verdicts = list(judge(results))
    _print(report.verdicts(verdicts))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report.document(results, verdicts), indent=2) + "\n")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def measure(rows: list[Row], sizes: Sizes) -> Mapping[Row, Figures]:
    """Every row in turn, each printed as soon as it is known."""
    results: dict[Row, Figures] = {}
    _print(report.heading())
    with tempfile.TemporaryDirectory(prefix="mdmw-bench-") as name, topology(sizes.guests) as namespaces:
        directory = Path(name)
        body = directory / "meta_data.json"
        body.write_bytes(haproxies.meta_data())
        node = Node(namespaces, directory)
        loads = Loads(namespaces, sizes, body)
        with node.upstream(body) as nova:
            for row in rows:
                before = Usage.now([nova])
                results[row] = _row(node, loads, row)
                results[row]["others"] = Usage.now([nova]).others_since(before)
                _print([report.line(row, results[row])])
    return results


def _row(node: Node, loads: Loads, row: Row) -> Figures:
    try:
        with node.path(row) as pids:
            loads.check(row.port)
            return {
                "closed_loop": loads.closed_loop(row.port),
                "idle": loads.idle(row.port, haproxies.NOVA_PORT),
                "storm": loads.storm(row.port),
                "memory": memory(pids),
            }
    except NotReady as problem:
        return {"failed": f"{problem}\n{node.log()}".strip()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only these rows, and the C limit")
    parser.add_argument("--quick", action="store_true", help="fewer seconds and guests: a try, not a figure")
    return parser.parse_args()


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _refuse(problem: str) -> int:
    print(f"bench: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
