"""`python -m bench.node_servers`: which HTTP server for a thousand listeners in one process (about a minute).

Each serves the same application, that answers at once, on sockets that it inherits: what a listener
costs in memory, and requests per second with one listener and with many. One process each.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_WRK = Path(__file__).with_name("wrk.lua")
_APPLICATION = """
import os, socket, sys
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
descriptors = [int(word) for word in os.environ["LISTENERS"].split()]
"""
_READY = "print('ready', flush=True)\n"
_SERVERS = {
    "mdmw-node's worker": f"""
import json
from gevent import monkey
monkey.patch_all(os=False, signal=False, subprocess=False)
from mdmw.node.channel import Channel, pair
from mdmw.node.worker import Worker, shipped_config
ours, its = pair()
channel = Channel(ours, {{}})
for key, descriptor in enumerate(descriptors):
    scope = ["network", "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"]
    channel.send("add", [descriptor], key=key, scope=scope, on_link=True)
    os.close(descriptor)
{_READY}
Worker(application, shipped_config(), socket.socket(fileno=its.detach()), 2000).run()
""",
    "gevent.pywsgi": f"""
from gevent import monkey
monkey.patch_all()
import gevent
from gevent.pywsgi import WSGIServer
for descriptor in descriptors:
    WSGIServer(socket.socket(fileno=descriptor), application, log=None).start()
{_READY}
gevent.get_hub().join()
""",
    "gunicorn gevent (listeners at start only)": """
import runpy
from gunicorn.app.base import BaseApplication
class Server(BaseApplication):
    def load_config(self):
        fixed = dict(bind=[f"fd://{one}" for one in descriptors], workers=1, worker_class="gevent",
                     keepalive=30, loglevel="error", when_ready=lambda _: print("ready", flush=True))
        for name, value in fixed.items():
            self.cfg.set(name, value)
    def load(self):
        return application
Server().run()
""",
    "waitress (listeners at start only)": f"""
from waitress.server import create_server
sockets = [socket.socket(fileno=one) for one in descriptors]
server = create_server(application, sockets=sockets, threads=16, asyncore_use_poll=True,
                       connection_limit=10000)
{_READY}
server.run()
""",
}


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listeners", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps({name: _measure(text, arguments) for name, text in _SERVERS.items()}, indent=2))


def _measure(program: str, arguments: argparse.Namespace) -> dict[str, object]:
    sizes = {}
    rates: dict[int, list[tuple[float, float]]] = {1: [], arguments.listeners: []}
    for _ in range(arguments.rounds):
        for count, measured in rates.items():
            with _running(program, count) as (pid, port):
                before = family_seconds(pid)
                rate = _load(port, arguments.seconds)
                cost = (family_seconds(pid) - before) / (rate * arguments.seconds)
                measured.append((rate, cost * 1e6))
                sizes[count] = _pss(pid)
    more = arguments.listeners - 1
    figures: dict[str, object] = {
        "MiB with 1": round(sizes[1] / 1024, 1),
        "KiB for each more": round((sizes[arguments.listeners] - sizes[1]) / more, 1),
    }
    for count, measured in rates.items():
        figures[f"requests/s with {count}"] = round(statistics.median(rate for rate, _ in measured))
        figures[f"CPU µs of a request with {count}"] = round(statistics.median(cost for _, cost in measured))
    return figures


def family_seconds(pid: int) -> float:
    """Processor seconds of a process and its children so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / _TICK + sum(family_seconds(int(child)) for child in children)


@contextlib.contextmanager
def _running(program: str, count: int) -> Iterator[tuple[int, int]]:
    """The server with so many listeners: its process, and the port of the last one."""
    with contextlib.ExitStack() as stack:
        sockets = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(count)]
        for sock in sockets:
            stack.enter_context(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptors = [sock.fileno() for sock in sockets]
        process = subprocess.Popen(
            [sys.executable, "-c", _APPLICATION + program],
            env=os.environ | {"LISTENERS": " ".join(map(str, descriptors))},
            pass_fds=descriptors,
            stdout=subprocess.PIPE,
            text=True,
        )
        port = sockets[-1].getsockname()[1]
        stack.close()
        with process:
            try:
                while "ready" not in process.stdout.readline():
                    if process.poll() is not None:
                        raise SystemExit("a server did not start")
                yield process.pid, port
            finally:
                process.terminate()


def _load(port: int, seconds: int) -> float:
    url = f"http://127.0.0.1:{port}/"
    command = ["wrk", "-t1", "-c32", "-d", str(seconds), "-s", str(_WRK), url]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 30)
    return float(json.loads(done.stdout.splitlines()[-1])["rate"])


def _pss(pid: int) -> int:
    """KiB of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return own + sum(_pss(int(child)) for child in children)


if __name__ == "__main__":
    main()
