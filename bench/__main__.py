"""`python -m bench`: every path on every server, one table, and a verdict on the goals. Needs root.

What is compared is up at the same time, and loaded in turn, round after round; all is started anew a few
times, because two starts of the same server differ, as do two minutes of the same machine.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench import haproxies, report
from bench.figures import Figures
from bench.goals import Round, judge
from bench.loads import Loads, Sizes
from bench.paths import Place, Row, Running, groups
from bench.processes import NotReady, memory
from bench.topology import Topology, topology
from bench.usage import Usage, pids_in

_QUICK = Sizes(starts=1, rounds=1, guests=100, idle=50)
_TOOLS = ("ip", "haproxy", "wrk")


def main() -> int:
    """Measure, print, write; 0 when all goals are reached."""
    options = _options()
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        return _refuse(f"needs {', '.join(missing)}")
    if os.geteuid():
        return _refuse("needs root, for network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that finally runs

    sizes = _QUICK if options.quick else Sizes()
    sizes = replace(sizes, starts=options.starts or sizes.starts)
    rounds = measure(groups(options.only, options.beside), sizes)
    results, verdicts = report.results(rounds), list(judge(rounds))
    _print(report.table(results, sizes.starts * sizes.rounds))
    _print(report.verdicts(verdicts))
    _print(report.beside(rounds))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report.document(results, verdicts), indent=2) + "\n")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def measure(together: Sequence[Sequence[Row]], sizes: Sizes) -> list[Round]:
    """A start of each group, then the next of each: a slow minute of the machine hits all alike."""
    with tempfile.TemporaryDirectory(prefix="mdmw-bench-") as name, topology(sizes.guests) as namespaces:
        directory = Path(name)
        body = directory / "meta_data.json"
        body.write_bytes(haproxies.meta_data())
        loads = Loads(namespaces, sizes, body)
        rounds: list[Round] = []
        with Place(namespaces, directory).upstream(body):
            for start in range(sizes.starts):
                for group in together:
                    names = "; ".join(map(str, group))
                    print(f"bench: start {start + 1} of {sizes.starts}: {names}", file=sys.stderr)
                    rounds += _started(namespaces, loads, group, sizes.rounds)
        return rounds


def _started(namespaces: Topology, loads: Loads, group: Sequence[Row], rounds: int) -> list[Round]:
    """All of `group` started anew, measured while all is up, and stopped."""
    failed: dict[Row, Figures] = {}
    up: dict[Row, Running] = {}
    with tempfile.TemporaryDirectory(prefix="mdmw-bench-") as name, contextlib.ExitStack() as stack:
        Path(name).chmod(0o755)  # workers of mdmw-node are not root, and read what is here
        for index, row in enumerate(group):
            directory = Path(name) / str(index)
            directory.mkdir()
            place = Place(namespaces, directory, haproxies.METADATA_PORT + index)
            try:
                up[row] = stack.enter_context(_answering(place, row, loads))
            except NotReady as problem:
                failed[row] = {"failed": f"{problem}\n{place.log()}".strip()}
        loads.warm_up([running.port for running in up.values()])
        return [{**failed, **_in_turn(namespaces, loads, up, number)} for number in range(rounds)]


def _in_turn(namespaces: Topology, loads: Loads, up: Mapping[Row, Running], number: int) -> Round:
    """Each load on one after the other; who is first in one turn or round is last in the next."""
    measured: dict[Row, Figures] = {row: {} for row in up}
    used = dict.fromkeys(up, Usage())
    for turn, (name, load) in enumerate(loads.turns(), number):
        for row in list(up)[:: -1 if turn % 2 else 1]:
            before = _usage(namespaces)
            measured[row][name] = load(up[row].port)
            used[row] += _usage(namespaces) - before
    return {
        row: measured[row] | {"memory": memory(running.pids), "others": used[row].others()}
        for row, running in up.items()
    }


def _usage(namespaces: Topology) -> Usage:
    return Usage.now([*pids_in(namespaces.node), *pids_in(namespaces.host)])


@contextlib.contextmanager
def _answering(place: Place, row: Row, loads: Loads) -> Iterator[Running]:
    with place.path(row) as running:
        loads.check(running.port)
        yield running


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only rows with this in their names")
    parser.add_argument(
        "--beside",
        type=_checkout,
        metavar="DIRECTORY",
        help="another checkout of mdmw, with its .venv: measure each server's rows of both, and compare them",
    )
    parser.add_argument("--quick", action="store_true", help="one small round: a try, not a figure")
    parser.add_argument("--starts", type=_positive, metavar="N", help=f"default: {Sizes.starts}")
    return parser.parse_args()


def _checkout(text: str) -> Path:
    directory = Path(text).resolve()
    if not (directory / ".venv/bin/python").exists():
        raise argparse.ArgumentTypeError(f"{directory} has no .venv; make one there with: make .venv/.test")
    return directory


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _refuse(problem: str) -> int:
    print(f"bench: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
