"""`python -m bench.node_planned`: a thousand networks that mdmw-node plans itself (root; about five minutes).

From a file: a bridge, a namespace, a dnsmasq and three guests' addresses each, and a router for some. What
all processes of the daemon weigh at rest, at most while it looks, and what a look costs that finds nothing
to do. The dnsmasq of each network is not counted: it is there whoever starts it.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.processes import memory, running
from mdmw.node.control import ControlError, called
from mdmw.node.converge import converge
from mdmw.node.desired import Places
from mdmw.node.plan import Plan

_MADE_WITHIN = 600.0
_LOOK_WITHIN = 120.0
_SAMPLE_EVERY = 0.02
_INI = """
[pipeline:standalone]
pipeline = identify to-agent
[filter:identify]
use = egg:mdmw#source-identify
mode = listener
[app:to-agent]
use = egg:mdmw#agent-forward
metadata_proxy_socket = {home}/agent
"""


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--routers", type=int, default=100)
    parser.add_argument("--looks", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mdmw-bench-") as name, _bridges(arguments.networks) as bridges:
        home = Path(name)
        home.chmod(0o755)
        (home / "api-paste.ini").write_text(_INI.format(home=home))
        inventory = home / "inventory.yaml"
        inventory.write_text(json.dumps(_inventory(bridges, arguments.routers)))
        try:
            began = time.monotonic()
            with _daemon(home, inventory) as pid:
                _wait_for(home, arguments.networks)  # one each: behind a router, in that
                made = time.monotonic() - began
                figures = [_look(pid) for _ in range(arguments.looks)]
                rest = memory([pid])
        finally:
            converge(Plan(), Places(home / "state"))
    print(
        json.dumps(
            {
                "networks": arguments.networks,
                "routers": arguments.routers,
                "made and served within, s": round(made),
                "MiB (PSS of all processes), at rest": _mib(rest),
                "MiB (PSS of all processes), at most during a look": [_mib(peak) for peak, _ in figures],
                "processor time of a look, s": [round(seconds, 2) for _, seconds in figures],
            },
            indent=2,
        )
    )
    print("goals: at most 96 MiB, also during a look", file=sys.stderr)


def _look(pid: int) -> tuple[int, float]:
    """The most that all processes weigh during a look, in bytes, and its processor time in seconds."""
    before = _of_children(pid)
    name = f"bench-{uuid.uuid4()}"  # that a namespace comes and goes is a reason to look
    for action in ("add", "delete"):
        subprocess.run(["ip", "netns", action, name], check=True)
    peak, deadline = 0, time.monotonic() + _LOOK_WITHIN
    while (seconds := _of_children(pid) - before) == 0:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one has ended meanwhile
            peak = max(peak, memory([pid]))
        if time.monotonic() > deadline:
            raise SystemExit("no look")
        time.sleep(_SAMPLE_EVERY)  # between two samples of its memory
    return peak, seconds


def _of_children(pid: int) -> float:
    """Seconds of processor time of the children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _wait_for(home: Path, listeners: int) -> None:
    deadline = time.monotonic() + _MADE_WITHIN
    while True:
        with contextlib.suppress(ControlError), called(home / "node.sock") as caller:
            status, *_ = caller.ask("status")
            if status.fields["listeners"] == listeners:
                return
        if time.monotonic() > deadline:
            raise SystemExit((home / "log").read_text()[-2000:])
        time.sleep(0.5)  # the daemon tells nobody when all is served


@contextlib.contextmanager
def _daemon(home: Path, inventory: Path) -> Iterator[int]:
    command = [sys.executable, "-c", "import sys; from mdmw.cli.node_daemon import main; sys.exit(main())"]
    command += ["--ini", str(home / "api-paste.ini"), "--run-dir", str(home), "--user", "nobody"]
    command += ["--pipeline", "standalone", "--workers", "2", "--look-interval", "3600"]
    command += ["--file", str(inventory), "--set", f"node_state_path={home / 'state'}"]
    log = home / "log"
    with running(command, lambda: "workers serve" in log.read_text(), log) as pid:
        yield pid


@contextlib.contextmanager
def _bridges(count: int) -> Iterator[list[str]]:
    names = [f"mdmwb{number}" for number in range(count)]
    _batch(f"link add {name} up type bridge" for name in names)
    try:
        yield names
    finally:
        _batch(f"link delete {name}" for name in names)


def _batch(lines: Iterator[str]) -> None:
    subprocess.run(["ip", "-force", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _inventory(bridges: list[str], routers: int) -> dict[str, Any]:
    networks, instances = [], []
    for number, bridge in enumerate(bridges):
        high, low = divmod(number, 250)
        subnet = {"id": str(uuid.uuid4()), "cidr": f"10.{high}.{low}.0/24"}
        if number < routers:
            subnet["gateway_ip"] = f"10.{high}.{low}.1"
        network = {"id": str(uuid.uuid4()), "bridge": bridge, "subnets": [subnet]}
        networks.append(network)
        for guest in range(3):
            port = {
                "id": str(uuid.uuid4()),
                "network": network["id"],
                "mac": f"fa:16:{high:02x}:{low:02x}:00:{guest:02x}",
                "addresses": [f"10.{high}.{low}.{10 + guest}"],
            }
            name = f"g{number}-{guest}"
            instances.append(
                {"id": str(uuid.uuid4()), "project_id": uuid.uuid4().hex, "name": name, "ports": [port]}
            )
    interfaces = [{"subnet": network["subnets"][0]["id"]} for network in networks[:routers]]
    return {
        "networks": networks,
        "routers": [{"id": str(uuid.uuid4()), "interfaces": [interface]} for interface in interfaces],
        "instances": instances,
    }


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


if __name__ == "__main__":
    main()
