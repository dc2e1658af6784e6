"""`mdmw demo`: run the whole path on this machine, with the guests of the sample inventory."""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import requests

from mdmw.cli.common import add_json, table
from mdmw.errors import ConfigError
from mdmw.identity import Identity, become_unprivileged, identity_of
from mdmw.inventory.file import load as load_inventory
from mdmw.inventory.values import Guest, Inventory
from mdmw.node import sandbox
from mdmw.node.channel import MOST_PLACES
from mdmw.node.control import called
from mdmw.wsgi.pipelines import INI_VARIABLE

_START_TIMEOUT = 30.0  # seconds
_END_TIMEOUT = 45.0  # seconds; longer than any process waits for its guests
_CHECK_EVERY = 0.02  # seconds
_ASK_TIMEOUT = 30  # seconds; the first guest may have to wait for a proxy that starts
_NODE = "mdmw-node"
_NODE_USER = "nobody"
_METADATA_URL = "http://169.254.169.254"
_RUN = "/run"  # every user may enter this directory, and perhaps not TMPDIR
_HEADING = ("GUEST", "ADDRESS", "NETWORK", "ASKS FOR", "STATUS", "ANSWER", "")

#: Asks as a guest: (guest, path) -> (status, body).
Ask = Callable[[Guest, str], tuple[int, bytes]]


class DemoProcesses:
    """The processes of the demo. `home` has `api-paste.ini` and a log for each; `stack` ends the processes.

    With an `identity`, the processes that serve a pipeline run as this user and group, without root's powers.
    """

    def __init__(self, home: Path, stack: contextlib.ExitStack, identity: Identity | None = None) -> None:
        self._home = home
        self._stack = stack
        self._become = functools.partial(become_unprivileged, identity) if identity else None
        self._logs: list[Path] = []

    def serve(self, pipeline: str, *binds: str, inherit: Sequence[socket.socket] = ()) -> None:
        """Start a process that serves a pipeline, and wait until it serves; raises `ConfigError`."""
        words = [word for bind in binds for word in ("--bind", bind)]
        command = [
            sys.executable,
            "-m",
            "mdmw",
            "serve",
            pipeline,
            "--workers",
            "1",
            "--threads",
            "64",
            *words,
        ]
        environ = {INI_VARIABLE: str(self._home / "api-paste.ini")}
        process = self._start(pipeline, command, environ, inherit, self._become)
        for bind in binds:
            if bind.startswith("unix:"):
                self._wait_until(functools.partial(_accepts, bind.removeprefix("unix:")), pipeline, process)

    def node(self, *words: str) -> None:
        """Start mdmw-node, and wait until its workers serve; raises `ConfigError`."""
        address = str(self._home / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(address)
            notices.setblocking(False)
            program = Path(sys.executable).with_name(_NODE)
            process = self._start(_NODE, [str(program), *words], {"NOTIFY_SOCKET": address})
            self._wait_until(functools.partial(_is_ready, notices), _NODE, process)

    def wait(self) -> None:
        """Wait until a process ends by itself, and raise `ConfigError` with the logs."""
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        raise ConfigError(
            "a process of the demo ended; the logs are:\n" + "".join(log.read_text() for log in self._logs)
        )

    def _start(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        inherit: Sequence[socket.socket] = (),
        before: Callable[[], None] | None = None,
    ) -> subprocess.Popen[bytes]:
        path = self._home / f"{name}.log"
        self._logs.append(path)
        log = self._stack.enter_context(path.open("wb"))
        process = subprocess.Popen(  # noqa: S603 - no shell, and only words of mdmw
            command,
            env={**os.environ, **environ},
            pass_fds=[sock.fileno() for sock in inherit],
            stdout=log,
            stderr=log,
            preexec_fn=before,
        )
        self._stack.callback(_end, process)
        return process

    def _wait_until(self, holds: Callable[[], bool], name: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not holds():
            if process.poll() is not None or time.monotonic() > deadline:
                said = self._logs[-1].read_text().splitlines() or ["the log is empty"]
                raise ConfigError(f"{name} did not start: {said[-1]}")
            time.sleep(_CHECK_EVERY)  # nothing says when a socket begins to listen


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return not probe.connect_ex(path)


def _is_ready(notices: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return notices.recv(100) == b"READY=1"
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def add_parser(commands: Any) -> None:
    """`mdmw demo`."""
    parser = commands.add_parser(
        "demo",
        help="run the whole path on this machine with sample guests",
        description="Start a proxy, an agent and a stand-in for Nova with the sample inventory, ask for "
        "metadata as each guest of the inventory, print the answers, and serve until Ctrl-C. As root, each "
        "guest lives in a network namespace, and the proxy is mdmw-node. Without root, each guest has a port "
        "on the loopback address.",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="end after the table of answers; exit status 1 if an answer is wrong",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """0 if all answers are right, 1 if an answer is wrong."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # A shell lets a process in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    obstacle = _obstacle()
    if obstacle and not arguments.json:
        print(
            f"{obstacle}: the demo runs without namespaces and without a router, and each guest has a port "
            "on the loopback address\n"
        )
    with running(in_namespaces=not obstacle) as demo:
        answers = demo.answers()
        if arguments.json:
            print(json.dumps([answer.as_dict() for answer in answers], indent=2))
        else:
            print(table([_HEADING, *(answer.row() for answer in answers)]))
        if not arguments.once:
            with contextlib.suppress(KeyboardInterrupt):
                hints = [*demo.hints, *demo.serve_operators(), *_more_hints(demo.home)]
                print("\n" + "\n".join([*hints, "Ctrl-C ends it."]), flush=True)
                demo.processes.wait()
    return 0 if all(answer.right for answer in answers) else 1


@contextlib.contextmanager
def running(in_namespaces: bool, inventory_file: Path | None = None) -> Iterator["Demo"]:
    """The whole path while it serves, with the sample inventory or another one; raises `ConfigError`."""
    with contextlib.ExitStack() as stack:
        parent = _RUN if in_namespaces else None
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdmw-", dir=parent)))
        identity = _identity() if in_namespaces else None
        inventory = _configure(home, inventory_file, identity)
        processes = DemoProcesses(home, stack, identity)
        processes.serve("nova", f"unix:{home}/run/nova")
        processes.serve("agent", f"unix:{home}/run/metadata_proxy")
        place = _in_namespaces if in_namespaces else _on_loopback
        yield place(home, inventory, processes, stack)


# --- questions and answers --------------------------------------------------------------


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
    """Path, status, answer, and whether the answer is that of the inventory."""
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
    """The name of the guest's network, and whether a router serves the network."""
    network = next(n for n in inventory.networks if n.id == guest.ports[0].network_id)
    routed = {interface.subnet_id for router in inventory.routers for interface in router.interfaces}
    by_router = any(subnet.id in routed for subnet in network.subnets)
    return f"{network.name}, by router" if by_router else network.name


def _uuid(body: bytes) -> str:
    try:
        return str(json.loads(body)["uuid"])
    except (ValueError, KeyError, TypeError):
        return "none"


# --- namespaces, or loopback ------------------------------------------------------------


def _obstacle() -> str:
    """Why the demo cannot make namespaces, in one line; empty if it can."""
    if importlib.util.find_spec("gevent") is None:
        return "gevent is not installed (mdmw[node])"
    return sandbox.obstacle()


@dataclass(frozen=True)
class Demo:
    """The running demo. `namespaces` has the namespace of each guest by instance id; empty on loopback."""

    home: Path
    inventory: Inventory
    processes: DemoProcesses
    ask: Ask
    namespaces: dict[str, str]
    hints: list[str]

    def answers(self) -> list["_Answer"]:
        """The answers to the questions of each guest."""
        return [
            _Answer(guest, _network(self.inventory, guest), *rest)
            for guest in self.inventory.instances
            for rest in _questions(guest, self.ask)
        ]

    def serve_operators(self) -> list[str]:
        """Start the dashboard and the admin API; returns hints how to use them."""
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.processes.serve("operations", f"fd://{sock.fileno()}", inherit=[sock])
            port = sock.getsockname()[1]
        admin = self.home / "run" / "admin"
        self.processes.serve("admin-local", f"unix:{admin}")
        return [
            f"The dashboard, and /metrics:  http://127.0.0.1:{port}/",
            f"Requests per network, live:  {sys.executable} -m mdmw top --socket {admin}",
        ]


def _identity() -> Identity:
    ids = identity_of(_NODE_USER, "")
    return Identity(ids.uid, ids.gid)


def _configure(home: Path, inventory_file: Path | None, identity: Identity | None) -> Inventory:
    """Write the shipped files, a new secret, and a directory `run` that the processes of the demo own."""
    shipped = resources.files("mdmw") / "etc"
    ini = (shipped / "api-paste.ini").read_text()
    for old, new in (
        ("run = /run/mdmw\n", f"run = {home}/run\n"),
        ("state = /var/lib/mdmw\n", f"state = {home}/run\n"),
        ("%(run)s/node-status.json", f"{home}/node-status.json"),
    ):
        ini = ini.replace(old, new)
    run = home / "run"
    run.mkdir()
    if identity:
        os.chown(run, identity.uid, identity.gid)
        home.chmod(0o711)
    (home / "api-paste.ini").write_text(ini)
    (home / "admin.conf").write_text((shipped / "admin.conf").read_text())
    (home / "listeners.json").write_text("{}")
    (home / "inventory.yaml").write_text((inventory_file or shipped / "inventory.yaml").read_text())
    secret = home / "shared-secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32) + "\n")
    return load_inventory(home / "inventory.yaml")


def _in_namespaces(
    home: Path, inventory: Inventory, processes: DemoProcesses, stack: contextlib.ExitStack
) -> Demo:
    site = stack.enter_context(sandbox.build(inventory))
    processes.node("--ini", f"{home}/api-paste.ini", "--run-dir", str(home), "--user", _NODE_USER)
    _listen(home / "node.sock", site.listeners)

    def ask(guest: Guest, path: str) -> tuple[int, bytes]:
        url = _METADATA_URL + path
        command = ["ip", "netns", "exec", site.guests[guest.id], "curl", "-sS", "-m", str(_ASK_TIMEOUT)]
        done = subprocess.run([*command, "-w", "\n%{http_code}", url], capture_output=True, check=False)  # noqa: S603 - only words of mdmw
        body, _, status = done.stdout.rpartition(b"\n")
        return int(status or 0), body if status else done.stderr

    hints = [
        f"Ask as {guest.name}:  ip netns exec {site.guests[guest.id]} curl {_METADATA_URL}/openstack"
        for guest in inventory.instances
    ]
    command = f"{sys.executable} -m mdmw node list --socket {home}/node.sock"
    hints.append(f"What mdmw-node listens to:  {command}")
    return Demo(home, inventory, processes, ask, site.guests, hints)


def _listen(control: Path, listeners: Sequence[sandbox.SandboxListener]) -> None:
    """Tell mdmw-node where to listen; raises `ControlError`."""
    wanted = [
        [one.namespace, [one.address, one.port, None], [one.scope.kind, one.scope.id]] for one in listeners
    ]
    with called(control) as node:
        for number in range(0, len(wanted), MOST_PLACES):
            node.tell("want", listeners=wanted[number : number + MOST_PLACES], more=True)
        node.tell("want", listeners=[], more=False)


def _on_loopback(
    home: Path, inventory: Inventory, processes: DemoProcesses, stack: contextlib.ExitStack
) -> Demo:
    sockets = []
    places = {}
    ports = {}
    for guest in inventory.instances:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        sockets.append(sock)
        ports[guest.id] = sock.getsockname()[1]
        address = guest.ports[0].addresses[0]
        places[f"port:{ports[guest.id]}"] = {"network": guest.ports[0].network_id, "address": address}
    (home / "listeners.json").write_text(json.dumps(places))
    processes.serve("proxy", *(f"fd://{sock.fileno()}" for sock in sockets), inherit=sockets)
    session = stack.enter_context(requests.Session())
    session.trust_env = False

    def ask(guest: Guest, path: str) -> tuple[int, bytes]:
        reply = session.get(f"http://127.0.0.1:{ports[guest.id]}{path}", timeout=_ASK_TIMEOUT)
        return reply.status_code, reply.content

    hints = [
        f"Ask as {guest.name}:  curl http://127.0.0.1:{ports[guest.id]}/openstack"
        for guest in inventory.instances
    ]
    return Demo(home, inventory, processes, ask, {}, hints)


def _more_hints(home: Path) -> list[str]:
    python = sys.executable
    return [
        f"The configuration, explained:  {python} -m mdmw check --ini {home}/api-paste.ini",
        f"Change a guest, and ask again:  edit {home}/inventory.yaml",
    ]
