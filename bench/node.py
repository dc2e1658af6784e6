"""`python -m bench.node`: a thousand network namespaces on one mdmw-node (root; about two minutes).

Memory of all its processes, the time to begin to serve a namespace, and whether a thousand listeners
slow down one. Every namespace is real; the load comes from within them. One listener and a thousand are
measured in turn, and compared turn by turn, so that what else the machine does hits both.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from bench.figures import percentile
from bench.node_servers import family_seconds
from bench.processes import accepts_unix, memory, running
from bench.topology import METADATA_ADDRESS, inside, within
from mdmw.node.control import ControlError, KeeperClient, called

_IN_MEMORY = "/dev/shm"  # as /run is, where the daemon has its files; a disk may take milliseconds
_GUEST = "10.77.0.5"
_LOADERS = 8  # generators at a time
_CONNECTIONS = 32  # of all of them
_AT_ONCE = 100
_REFUSALS = 5  # for each attachment, which takes that many times as long
_PATIENCE = 60.0
_WARM_UP = 2  # seconds
_SYSCTLS = {
    # A connection per request: without these, the figure would be of TIME_WAIT.
    "net.ipv4.ip_local_port_range": "2048 65535",
    "net.ipv4.tcp_max_tw_buckets": "1024",
    "net.ipv4.tcp_tw_reuse": "1",
}
_WRK = Path(__file__).with_name("wrk.lua")
_GOALS = "at most 96 MiB (64 is the aim), 0 processes per namespace, attach 5 ms, throughput within 10 %"
_INI = """
[pipeline:proxy]
pipeline = identify to-agent
[filter:identify]
use = egg:mdmw#source-identify
mode = listener
[app:to-agent]
use = egg:mdmw#agent-forward
metadata_proxy_socket = {home}/agent
"""
_HAPROXY = """
global
    maxconn 4000
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 5s
frontend agent
    bind {home}/agent mode 666
    http-request return status 200 content-type text/plain string "hello"
"""


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespaces", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=4, help="of each load")
    parser.add_argument("--rounds", type=int, default=6, help="loads of one listener and of all, in turn")
    parser.add_argument("--attach-rounds", type=int, default=3, help="all attached, and detached again")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mdmw-bench-", dir=_IN_MEMORY) as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "api-paste.ini").write_text(_INI.format(home=home))
        (home / "haproxy.cfg").write_text(_HAPROXY.format(home=home))
        with (
            _namespaces(arguments.namespaces) as names,
            _agent(home),
            _daemon(home, arguments.workers) as pid,
        ):
            print(json.dumps(_measure(home, pid, names, arguments), indent=2))
    print(f"goals: {_GOALS}", file=sys.stderr)


def _measure(home: Path, pid: int, names: list[str], arguments: argparse.Namespace) -> dict[str, object]:
    with called(home / "node.sock", _PATIENCE) as caller:
        figures: dict[str, object] = {"namespaces": len(names), "workers": arguments.workers}
        figures["processes, without listeners"] = len(_family(pid))
        figures["MiB, without listeners"] = _mib(memory([pid]))
        waits = _Waits(pid)
        for turn in range(arguments.attach_rounds):
            if turn:
                _detach(caller, names)
            figures[f"attach, ms, round {turn + 1}"] = _attach(caller, names, waits)
            figures[f"a question about nothing, ms, round {turn + 1}"] = _refusals(caller, names)
        _ask_in_each(names)
        figures["processes"] = len(_family(pid))
        figures["MiB (PSS of all processes)"] = _mib(memory([pid]))
        figures["MiB of each"] = [_mib(_pss(one)) for one in _family(pid)]
        _detach(caller, names)
        loads = {
            "one namespace": [names[0]] * _LOADERS,
            "many namespaces": names[:: max(1, len(names) // _LOADERS)][:_LOADERS],
        }
        rates: dict[str, list[float]] = {}
        costs: dict[str, list[float]] = {}
        # The first in `turns` is the first in each table, and what the others are compared with.
        turns = [(names[:1], "one namespace"), (names, "one namespace"), (names, "many namespaces")]
        for turn in range(arguments.rounds):
            for listening, where in turns[:: -1 if turn % 2 else 1]:
                _want(caller, listening)
                _load(loads[where], _WARM_UP)  # and workers are still taking listeners
                before = family_seconds(pid)
                rate = _load(loads[where], arguments.seconds)
                cost = (family_seconds(pid) - before) / (rate * arguments.seconds)
                what = f"{len(listening)} listeners, load in {where}"
                rates.setdefault(f"requests/s, {what}", []).append(round(rate))
                costs.setdefault(f"CPU µs of a request, {what}", []).append(round(cost * 1e6))
        figures |= rates | costs | _compared(rates) | _compared(costs)
        figures["MiB, after the load"] = _mib(memory([pid]))
        return figures


def _attach(caller: KeeperClient, names: list[str], waits: "_Waits") -> dict[str, dict[str, float]]:
    """Begin to serve one namespace after the other: as the caller sees it, and without waiting for a CPU."""
    took, alone = [], []
    pidfd = os.pidfd_open(os.getpid())
    for name in names:
        with open(f"/run/netns/{name}", "rb") as namespace:
            descriptors = [namespace.fileno(), pidfd]
            network = _network(name)
            fields = {
                "pid": os.getpid(),
                "scope": ["network", network],
                "binds": [[METADATA_ADDRESS, 80, None]],
            }
            waited, began = waits.so_far(), time.perf_counter()
            caller.tell("attach", descriptors, name=network, **fields)
            took.append((time.perf_counter() - began) * 1000)
            alone.append(max(0.0, took[-1] - (waits.so_far() - waited) * 1000))
    os.close(pidfd)
    return {"in all": _distribution(took), "without waiting for a processor": _distribution(alone)}


def _refusals(caller: KeeperClient, names: list[str]) -> dict[str, float]:
    """The same way there and back, with nothing to do: whatever is slow here is this machine.

    As many questions as take the time of the attaching.
    """
    took = []
    for _ in range(_REFUSALS * len(names)):
        began = time.perf_counter()
        with contextlib.suppress(ControlError):
            caller.tell("detach", name="nobody")
        took.append((time.perf_counter() - began) * 1000)
    return _distribution(took)


def _distribution(values: list[float]) -> dict[str, float]:
    found = {f"p{percent:g}": percentile(values, percent) or 0 for percent in (50, 90, 99, 99.9)}
    found |= {"mean": statistics.mean(values), "worst": max(values)}
    return {name: round(value, 2) for name, value in found.items()}


class _Waits:
    """Seconds that this process and the keeper were ready to run and had no processor, by schedstat."""

    def __init__(self, keeper: int) -> None:
        self._files = [open(f"/proc/{pid}/schedstat", "rb", buffering=0) for pid in ("self", keeper)]  # noqa: SIM115 - as long as the process

    def so_far(self) -> float:
        return sum(int(os.pread(file.fileno(), 100, 0).split()[1]) for file in self._files) / 1e9


def _compared(figures: dict[str, list[float]]) -> dict[str, object]:
    """All listeners to one, turn by turn: the median, and each."""
    (_, ones), *others = figures.items()
    found: dict[str, object] = {}
    for what, values in others:
        ratios = [round(value / one, 3) for value, one in zip(values, ones, strict=True)]
        found[f"{what}: ratio to one listener"] = {"median": statistics.median(ratios), "each": ratios}
    return found


def _detach(caller: KeeperClient, names: list[str]) -> None:
    for name in names:
        caller.tell("detach", name=_network(name))


def _want(caller: KeeperClient, names: list[str]) -> None:
    """Have these listened to, and no others."""
    places = [[name, [METADATA_ADDRESS, 80, None], ["network", _network(name)]] for name in names]
    for start in range(0, len(places) + 1, _AT_ONCE):
        part = places[start : start + _AT_ONCE]
        caller.tell("want", listeners=part, more=len(part) == _AT_ONCE)


def _ask_in_each(names: list[str]) -> None:
    """One request in each namespace, so that what is measured has been used."""
    for name in names:
        with inside(name), socket.create_connection((METADATA_ADDRESS, 80), 10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = client.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{name}: {answer[:200]!r}")


def _load(names: list[str], seconds: int) -> float:
    """Requests per second of as many generators at a time, a connection for each request."""
    command = ["wrk", "-t1", "-c", str(_CONNECTIONS // len(names)), "-d", str(seconds), "-s", str(_WRK)]
    url = f"http://{METADATA_ADDRESS}/openstack/latest/meta_data.json"
    running = [
        subprocess.Popen(within(name, [*command, url]), stdout=subprocess.PIPE, text=True) for name in names
    ]
    figures = [json.loads(one.communicate(timeout=seconds + 30)[0].splitlines()[-1]) for one in running]
    if errors := sum(one["errors"] for one in figures):
        raise SystemExit(f"{errors} errors under load")
    return sum(one["rate"] for one in figures)


@contextlib.contextmanager
def _namespaces(count: int) -> Iterator[list[str]]:
    """As many, each with 169.254.169.254 and a guest's address."""
    names = [f"qdhcp-{uuid.uuid4()}" for _ in range(count)]
    made = []
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
            lines = [
                "link set lo up",
                *(f"address add {one}/32 dev lo" for one in (METADATA_ADDRESS, _GUEST)),
            ]
            # Whoever asks 169.254.169.254 from its own host is 169.254.169.254, and no guest.
            lines.append(f"route replace local {METADATA_ADDRESS} dev lo src {_GUEST} table local")
            subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(lines), text=True, check=True)
            with inside(name):
                for setting, value in _SYSCTLS.items():
                    Path(f"/proc/sys/{setting.replace('.', '/')}").write_text(value)
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False)


@contextlib.contextmanager
def _daemon(home: Path, workers: int) -> Iterator[int]:
    command = [sys.executable, "-c", "import sys; from mdmw.cli.node_daemon import main; sys.exit(main())"]
    command += ["--ini", str(home / "api-paste.ini"), "--run-dir", str(home), "--user", "nobody"]
    command += ["--workers", str(workers)]
    with running(command, lambda: _serves(home), home / "log") as pid:
        yield pid


def _serves(home: Path) -> bool:
    with contextlib.suppress(ControlError), called(home / "node.sock") as caller:
        return "workers serve" in (home / "log").read_text() and bool(list(caller.ask("status")))
    return False


def _agent(home: Path) -> contextlib.AbstractContextManager[int]:
    path = home / "agent"
    return running(
        ["haproxy", "-f", str(home / "haproxy.cfg")], lambda: accepts_unix(path), home / "haproxy.log"
    )


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]


def _network(name: str) -> str:
    return name.removeprefix("qdhcp-")


def _pss(pid: int) -> int:
    line = next(
        one for one in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if one[:4] == "Pss:"
    )
    return int(line.split()[1]) * 1024


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


if __name__ == "__main__":
    main()
