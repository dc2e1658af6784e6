"""`mdmw demo`: the whole path on this machine, with the sample inventory."""

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import requests

from mdmw.cli.common import add_json, table
from mdmw.errors import ConfigError
from mdmw.filters.listener import netns_cookie
from mdmw.inventory import Guest, Inventory
from mdmw.inventory_file import load as load_inventory
from mdmw.node import namespaces, sandbox
from mdmw.wsgi.pipelines import INI_VARIABLE

_METADATA_URL = "http://169.254.169.254"
_START_TIMEOUT = 30.0
_ASK_TIMEOUT = 10

#: Ask a guest's question: (guest, path) -> (status, body).
Ask = Callable[[Guest, str], tuple[int, bytes]]


def add_parser(commands: Any) -> None:
    """`mdmw demo`."""
    parser = commands.add_parser(
        "demo",
        help="run the whole path on this machine with sample guests",
        description="Start proxy, agent and a stand-in for Nova with the sample inventory, ask as each "
        "of its guests, print the answers and keep serving until Ctrl-C. As root the guests live in "
        "network namespaces of their own; without root each has a port on loopback.",
    )
    parser.add_argument(
        "--once", action="store_true", help="end after the table; status 1 if an answer is wrong"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """Print the table of answers; 0 when all are right, 1 when one is wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell starts what it puts in the background deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    obstacle = sandbox.obstacle()
    if obstacle and not arguments.json:
        print(
            f"{obstacle}: no namespaces, no router, no curl in a guest; each guest has a port on loopback\n"
        )
    with running(in_namespaces=not obstacle) as demo:
        answers = demo.answers()
        if arguments.json:
            print(json.dumps([answer.as_dict() for answer in answers], indent=2))
        else:
            print(table([_HEADING, *(answer.row() for answer in answers)]))
        if not arguments.once:
            with contextlib.suppress(KeyboardInterrupt):
                print("\n" + "\n".join([*demo.hints, *_more_hints(demo.home), "Ctrl-C ends it."]), flush=True)
                demo.wait()
    return 0 if all(answer.right for answer in answers) else 1


@contextlib.contextmanager
def running(in_namespaces: bool, inventory_file: Path | None = None) -> Iterator["Demo"]:
    """The whole path, up and answering, with the sample inventory or another; raises `ConfigError`."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdmw-")))
        inventory = _configure(home, inventory_file)
        start = _Starter(home, stack)
        start("nova", f"unix:{home}/nova")
        start("agent", f"unix:{home}/metadata_proxy")
        place = _in_namespaces if in_namespaces else _on_loopback
        yield place(home, inventory, start, stack)


# --- what is asked ----------------------------------------------------------------------

_HEADING = ("GUEST", "ADDRESS", "NETWORK", "ASKS FOR", "STATUS", "ANSWER", "")


@dataclass(frozen=True, slots=True)
class _Answer:
    guest: Guest
    network: str
    path: str
    status: int
    text: str
    right: bool

    def row(self) -> tuple[str, ...]:
        address = self.guest.ports[0].addresses[0]
        verdict = "right" if self.right else "WRONG"
        return (self.guest.name, address, self.network, self.path, str(self.status), self.text, verdict)

    def as_dict(self) -> dict[str, object]:
        return {
            "instance": self.guest.id,
            "path": self.path,
            "status": self.status,
            "answer": self.text,
            "right": self.right,
        }


def _questions(guest: Guest, ask: Ask) -> Iterator[tuple[str, int, str, bool]]:
    """Path, status, what came, and whether it is what the inventory says."""
    path = "/openstack/latest/meta_data.json"
    status, body = ask(guest, path)
    uuid = _uuid(body)
    yield path, status, f"uuid {uuid}", status == 200 and uuid == guest.id

    path = "/openstack/latest/user_data"
    status, body = ask(guest, path)
    expected = (404, None) if guest.user_data is None else (200, guest.user_data)
    text = f"{len(body)} bytes" if status == 200 else "none"
    yield path, status, text, (status, body if status == 200 else None) == expected

    path = "/latest/meta-data/local-ipv4"
    status, body = ask(guest, path)
    address = next(a for port in guest.ports for a in port.addresses if ":" not in a)
    yield path, status, body.decode(errors="replace"), body == address.encode()


def _network(inventory: Inventory, guest: Guest) -> str:
    """The name of the guest's network, and whether a router leads there."""
    network = next(n for n in inventory.networks if n.id == guest.ports[0].network_id)
    routed = {interface.subnet_id for router in inventory.routers for interface in router.interfaces}
    by_router = any(subnet.id in routed for subnet in network.subnets)
    return f"{network.name}, by router" if by_router else network.name


def _uuid(body: bytes) -> str:
    try:
        return str(json.loads(body)["uuid"])
    except (ValueError, KeyError, TypeError):
        return "none"


# --- where it runs ----------------------------------------------------------------------


@dataclass(frozen=True)
class Demo:
    """What runs: its folder, its guests, and how to ask as one of them."""

    home: Path
    inventory: Inventory
    wait: Callable[[], None]
    ask: Ask
    namespaces: dict[str, str]  # of each guest, by instance id; empty on loopback
    hints: list[str]

    def answers(self) -> list["_Answer"]:
        """Ask as each guest."""
        return [
            _Answer(guest, _network(self.inventory, guest), *rest)
            for guest in self.inventory.instances
            for rest in _questions(guest, self.ask)
        ]


def _configure(home: Path, inventory_file: Path | None) -> Inventory:
    """The shipped files, with sockets and state in `home` and a secret of this run."""
    shipped = resources.files("mdmw") / "etc"
    ini = (shipped / "api-paste.ini").read_text()
    for name, usual in (("run", "/run/mdmw"), ("state", "/var/lib/mdmw")):
        ini = ini.replace(f"{name} = {usual}\n", f"{name} = {home}\n")
    (home / "api-paste.ini").write_text(ini)
    (home / "inventory.yaml").write_text((inventory_file or shipped / "inventory.yaml").read_text())
    secret = home / "shared-secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32) + "\n")
    return load_inventory(home / "inventory.yaml")


def _in_namespaces(home: Path, inventory: Inventory, start: "_Starter", stack: contextlib.ExitStack) -> Demo:
    site = stack.enter_context(sandbox.build(inventory))
    sockets = []
    places = {}
    for listener in site.listeners:
        sock = stack.enter_context(namespaces.listen(listener.namespace, listener.address, listener.port))
        sockets.append(sock)
        places[f"netns:{netns_cookie(sock)}"] = {listener.scope.kind: listener.scope.id}
    _start_proxy(home, start, places, sockets)

    def ask(guest: Guest, path: str) -> tuple[int, bytes]:
        url = _METADATA_URL + path
        command = ["ip", "netns", "exec", site.guests[guest.id], "curl", "-sS", "-m", str(_ASK_TIMEOUT)]
        done = subprocess.run([*command, "-w", "\n%{http_code}", url], capture_output=True, check=False)  # noqa: S603 - our own words
        body, _, status = done.stdout.rpartition(b"\n")
        return int(status or 0), body if status else done.stderr

    hints = [
        f"Ask as {guest.name}:  ip netns exec {site.guests[guest.id]} curl {_METADATA_URL}/openstack"
        for guest in inventory.instances
    ]
    return Demo(home, inventory, start.wait, ask, site.guests, hints)


def _on_loopback(home: Path, inventory: Inventory, start: "_Starter", stack: contextlib.ExitStack) -> Demo:
    sockets = []
    places = {}
    ports = {}
    for guest in inventory.instances:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        sockets.append(sock)
        ports[guest.id] = sock.getsockname()[1]
        address = guest.ports[0].addresses[0]
        places[f"port:{ports[guest.id]}"] = {"network": guest.ports[0].network_id, "address": address}
    _start_proxy(home, start, places, sockets)
    session = stack.enter_context(requests.Session())
    session.trust_env = False

    def ask(guest: Guest, path: str) -> tuple[int, bytes]:
        reply = session.get(f"http://127.0.0.1:{ports[guest.id]}{path}", timeout=_ASK_TIMEOUT)
        return reply.status_code, reply.content

    hints = [
        f"Ask as {guest.name}:  curl http://127.0.0.1:{ports[guest.id]}/openstack"
        for guest in inventory.instances
    ]
    return Demo(home, inventory, start.wait, ask, {}, hints)


def _start_proxy(home: Path, start: "_Starter", places: dict[str, Any], sockets: list[socket.socket]) -> None:
    (home / "listeners.json").write_text(json.dumps(places))
    start("proxy", *(f"fd://{sock.fileno()}" for sock in sockets), inherit=sockets)


def _more_hints(home: Path) -> list[str]:
    python = sys.executable
    return [
        f"The configuration, explained:  {python} -m mdmw check --ini {home}/api-paste.ini",
        f"Change a guest, and ask again:  edit {home}/inventory.yaml",
    ]


class _Starter:
    """Starts pipelines as processes of their own and ends them with the demo."""

    def __init__(self, home: Path, stack: contextlib.ExitStack) -> None:
        self._home = home
        self._stack = stack
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __call__(self, pipeline: str, *binds: str, inherit: list[socket.socket] | None = None) -> None:
        words = [word for bind in binds for word in ("--bind", bind)]
        log = self._stack.enter_context((self._home / f"{pipeline}.log").open("wb"))
        process = subprocess.Popen(  # noqa: S603 - our own words
            [sys.executable, "-m", "mdmw", "serve", pipeline, "--workers", "1", "--threads", "64", *words],
            env=os.environ | {INI_VARIABLE: str(self._home / "api-paste.ini")},
            pass_fds=[sock.fileno() for sock in inherit or []],
            stdout=log,
            stderr=log,
        )
        self._processes[pipeline] = process
        self._stack.callback(_end, process)
        for bind in binds:
            if bind.startswith("unix:"):
                self._wait_for(bind.removeprefix("unix:"), pipeline, process)

    def wait(self) -> None:
        """Until one of the processes ends by itself, which is a `ConfigError`."""
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        raise ConfigError(f"a process ended; its log is:\n{self._logs()}")

    def _wait_for(self, path: str, pipeline: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(path):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ConfigError(f"{pipeline} did not start:\n{self._logs()}")
                time.sleep(0.02)  # between two looks; a socket cannot say when it begins to listen

    def _logs(self) -> str:
        return "".join((self._home / f"{name}.log").read_text() for name in self._processes)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
