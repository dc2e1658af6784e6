"""`python -m bench.incumbent`: the storm beside Neutron's own agent, in a real OpenStack. Needs root.

The cloud is that of tests/openstack. Guests have real ports in Neutron; the upstream stands in for Nova.
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cloud.cloud import running
from cloud.guests import ask

from bench import haproxies, report
from bench.figures import Figures
from bench.goals import Verdict
from bench.loads import Loads, Sizes
from bench.neutron_queries import counted
from bench.openstack_node import INCUMBENT, INCUMBENT_WORKERS, PATHS, Node, guests
from bench.processes import NotReady, memory
from bench.topology import topology
from bench.usage import Usage, pids_in

#: All would need minutes.
_INCUMBENT_GUESTS = 100
_FASTER_AT_LEAST = 50
_QUERIES_AT_MOST = 2
_LEGEND = """\
One machine, one run. Times in ms, wall in s, memory in MiB (PSS of the path's processes, after the storm).
Storm: guests that ask 28 things one after the other, a connection each; the upstream takes 20 ms.
The incumbent has fewer guests, and a minute: it would need several for all. What is open then is an error.
Queries: for ports, to Neutron, by a path that has just been started.
Others: the share of the machine, in %, that other programs used meanwhile; if above a few, run again."""
_LINE = "{:<34}| {:>6} | {:>6} {:>6} {:>6} {:>6} {:>5} | {:>7} | {:>6} | {:>6}"


def main() -> int:
    """Measure, print, write; 0 when all goals are reached."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the cloud ends
    rows = [row for row in PATHS if options.only in row or row == INCUMBENT]
    results = measure(rows, Sizes(guests=options.guests))
    verdicts = list(judge(results))
    _print(*report.verdicts(verdicts))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(_document(results, verdicts), indent=2) + "\n")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def measure(rows: list[str], sizes: Sizes) -> Mapping[str, Figures]:
    """Every row in turn, each printed as soon as it is known."""
    results: dict[str, Figures] = {}
    with running() as cloud, topology(sizes.guests, cloud.node) as namespaces:
        node = Node(cloud, namespaces, guests(cloud, namespaces))
        body = cloud.state.run / "meta_data.json"
        body.write_bytes(haproxies.meta_data())
        columns = "guests wall req/s p50 p99 err queries memory others"
        _print(_LEGEND, "", _LINE.format("", *columns.split()))
        with node.upstream(body):
            for row in rows:
                count = min(sizes.guests, _INCUMBENT_GUESTS) if row == INCUMBENT else sizes.guests
                loads = Loads(namespaces, replace(sizes, guests=count), body)
                results[row] = {"guests": count} | _row(node, loads, row)
                _print(_line(row, results[row]))
    return results


def judge(results: Mapping[str, Figures]) -> Iterator[Verdict]:
    """The verdicts; speed is judged by the best path, errors and queries by all of mdmw's."""
    ours = {row: figures for row, figures in results.items() if row != INCUMBENT}
    failed = {row: 1.0 for row, figures in results.items() if "failed" in figures}
    yield Verdict("every path was measured", not failed, failed)
    ours = {row: figures for row, figures in ours.items() if row not in failed}
    errors = {row: float(figures["storm"]["errors"]) for row, figures in ours.items()}
    yield Verdict("no errors through mdmw", not any(errors.values()), errors)
    queries = {row: float(figures["queries"]) for row, figures in ours.items()}
    goal = f"at most {_QUERIES_AT_MOST} queries to Neutron per storm"
    yield Verdict(goal, all(count <= _QUERIES_AT_MOST for count in queries.values()), queries)
    if ours and INCUMBENT not in failed:
        base = results[INCUMBENT]["storm"]["rate"]
        ratios = {row: figures["storm"]["rate"] / base for row, figures in ours.items()}
        goal = f"at least {_FASTER_AT_LEAST} times the incumbent's requests/s at {INCUMBENT_WORKERS} workers"
        yield Verdict(goal, max(ratios.values()) >= _FASTER_AT_LEAST, ratios)


def _row(node: Node, loads: Loads, row: str) -> Figures:
    try:
        with counted(node.cloud) as queries, node.path(row) as pids:
            _wait_until_loaded(node.namespaces.guest)
            before = Usage.now(pids_in(node.cloud.node))
            storm = loads.storm(haproxies.METADATA_PORT)
            used = Usage.now(pids_in(node.cloud.node)) - before
            return {"storm": storm, "queries": queries(), "memory": memory(pids), "others": used.others()}
    except NotReady as problem:
        return {"failed": str(problem)}


def _wait_until_loaded(guest: str) -> None:
    """The answer comes from a worker that is up, and costs no query: mdmw refuses TRACE, Nova serves it."""
    if (status := ask(guest, "/", method="TRACE").status) not in (200, 405):
        raise NotReady(f"the first answer has status {status}")


def _line(row: str, figures: Figures) -> str:
    if "failed" in figures:
        indented = figures["failed"].replace("\n", "\n    ")
        return f"{row:<34}| failed: {indented}"
    storm = figures["storm"]
    return _LINE.format(
        row, figures["guests"],
        f"{storm['wall']:.2f}", f"{storm['rate']:.0f}", report.ms(storm["p50"]), report.ms(storm["p99"]),
        storm["errors"], figures["queries"],
        f"{figures['memory'] / 2**20:.1f}", f"{figures['others'] * 100:.0f}",
    )  # fmt: skip


def _document(results: Mapping[str, Figures], verdicts: list[Verdict]) -> dict[str, object]:
    rows = [{"path": row, **figures} for row, figures in results.items()]
    return report.document({}, verdicts) | {"rows": rows}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.incumbent", description=__doc__)
    parser.add_argument(
        "--json", type=Path, default=Path("build/bench-openstack.json"), help="where the figures go"
    )
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only these paths, and the incumbent")
    parser.add_argument("--guests", type=int, default=400, help="default: %(default)s")
    return parser.parse_args()


def _print(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
