"""A host with bridges and guests, as libvirt would make them; the guests have real DHCP clients."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from mdmw.filters import instance_resolve, source_identify
from mdmw.inventory import file as inventory_file
from mdmw.node import file_view, namespaces
from mdmw.node.converge import ConvergeReport, converge
from mdmw.node.desired import Places
from mdmw.node.namespaces import Bind, CommandError, run
from mdmw.node.plan import Options, Plan, PlannedListener, plan
from mdmw.node.view import NodeView
from mdmw.responder import app as responder

_PROGRAMS = ("ip", "nft", "iptables", "dnsmasq", "curl")
_CLIENTS = ("udhcpc", "dhclient")

# What busybox's own sample script does, as far as addresses and routes go.
_UDHCPC = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip -4 addr add "$ip/$mask" dev "$interface"
if [ -n "$staticroutes" ]; then
    set -- $staticroutes
    while [ $# -ge 2 ]; do
        via="via $2"
        [ "$2" = 0.0.0.0 ] && via=
        ip -4 route add "$1" $via dev "$interface"
        shift 2
    done
else
    for gateway in $router; do ip -4 route add default via "$gateway" dev "$interface"; done
fi
"""

# What Debian's dhclient-script does, and its hook for option 121 itself; without touching resolv.conf.
_DHCLIENT = """#!/bin/sh
case "$reason" in BOUND|REBOOT) ;; *) exit 0 ;; esac
ip -4 addr add "$new_ip_address/$new_subnet_mask" dev "$interface"
if [ -z "$new_rfc3442_classless_static_routes" ]; then
    for gateway in $new_routers; do ip -4 route add default via "$gateway" dev "$interface"; done
fi
. /etc/dhcp/dhclient-exit-hooks.d/rfc3442-classless-routes
exit 0
"""


# For another process: a plan on its input becomes so, with the state in this directory.
CONVERGE = """
import pathlib, sys
from mdmw.node.converge import converge
from mdmw.node.plan import loads
from mdmw.node.desired import Places
plan, places = loads(sys.stdin.readline()), Places(state=pathlib.Path(sys.argv[1]))
print("ready", flush=True)
report = converge(plan, places)
print(report.problems, *report.actions)
"""


def obstacle(*programs: str) -> str:
    """Why there can be no such host here; empty when there can be one."""
    missing = [name for name in (*_PROGRAMS, *programs) if not shutil.which(name)]
    return "not root" if os.geteuid() else f"{', '.join(missing)} not found" if missing else ""


def without_clients() -> str:
    """The same, with DHCP clients."""
    return obstacle(*_CLIENTS)


class Host:
    """Makes bridges and guests, and takes all of it away in the end."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.places = Places(state=directory / "state")
        self._stack = stack
        self._tag = secrets.token_hex(2)
        self._count = 0

    def name(self, what: str) -> str:
        """One that nobody else on this machine has."""
        self._count += 1
        return f"mdmw-{self._tag}-{what}{self._count}"

    def bridge(self) -> str:
        """The name of a new one."""
        name = self.name("b")
        run("ip", "link", "add", name, "type", "bridge")
        self._stack.callback(run, "ip", "link", "delete", name)
        run("ip", "link", "set", name, "up")
        return name

    def namespace(self, name: str) -> str:
        """A new one with `lo` up."""
        run("ip", "netns", "add", name)
        self._stack.callback(_remove_namespace, name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def guest(self, bridge: str, mac: str) -> str:
        """The namespace of a guest with this card as `eth0`, without addresses."""
        space = self.namespace(self.name("g"))
        self.cable(space, "eth0", bridge, mac)
        run("ip", "-n", space, "link", "set", "eth0", "up")
        return space

    def cable(self, space: str, device: str, bridge: str, mac: str) -> None:
        """From a namespace to a bridge."""
        tap = self.name("t")
        run(*f"ip link add {device} address {mac} netns {space} type veth peer {tap}".split())
        run("ip", "link", "set", tap, "master", bridge, "up")

    def plan(self, inventory: str, **options: bool) -> Plan:
        """Of an inventory file with this text."""
        (self.directory / "inventory.yaml").write_text(inventory)
        return plan(self.view(), Options(**options))

    def view(self) -> NodeView:
        """Of the inventory file."""
        path = self.directory / "inventory.yaml"
        return file_view.view(inventory_file.load(path), path)

    def converge(self, wanted: Plan, places: Places | None = None) -> ConvergeReport:
        """Without problems."""
        report = converge(wanted, places or self.places)
        assert report.problems == ()
        return report

    @contextlib.contextmanager
    def serving(self, wanted: Plan) -> Iterator[None]:
        """A pipeline with the inventory behind each listener of a plan."""
        with contextlib.ExitStack() as stack:
            for one in (*wanted.dhcp, *wanted.routers):
                for listener in one.listeners:
                    app = self._pipeline(listener.scope)
                    stack.enter_context(_served(_listening(one.namespace, listener), app))
            yield

    def _pipeline(self, scope):
        path = str(self.directory / "inventory.yaml")
        app = responder.app_factory({}, inventory_file=path)
        app = instance_resolve.filter_factory({}, resolver="inventory", inventory_file=path)(app)
        fixed = {"mode": "fixed", f"{scope.kind}_id": scope.id}
        return source_identify.filter_factory({}, **fixed)(app)

    def lease(self, space: str, client: str) -> None:
        """Gets a lease with a real client; option 121 is asked for."""
        script = self.directory / f"{client}-script"
        script.write_text({"udhcpc": _UDHCPC, "dhclient": _DHCLIENT}[client])
        script.chmod(0o755)
        if client == "udhcpc":
            words = f"udhcpc -f -q -n -i eth0 -O 121 -t 10 -T 1 -s {script}"
        else:
            pid_file = Path(f"{script}.{space}.pid")
            words = f"dhclient -1 -4 -sf {script} -pf {pid_file} -lf {script}.{space}.leases eth0"
            _end(pid_file)
            self.ends_with_it(pid_file)
        inside(space, *words.split())

    def ends_with_it(self, pid_file: Path) -> None:
        """The process that is named in a file."""
        self._stack.callback(_end, pid_file)


@contextlib.contextmanager
def made() -> Iterator[Host]:
    """A host; what mdmw made on it is taken away by mdmw."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdmw")))
        directory.chmod(0o755)  # for dnsmasq, which has a user of its own
        host = Host(directory, stack)
        try:
            yield host
        finally:
            converge(Plan(), host.places)


def inside(space: str, *words: str) -> str:
    """What a command in a namespace prints; raises `CommandError`."""
    command = ["ip", "netns", "exec", space, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise CommandError(f"{' '.join(words)}: {done.returncode} {done.stderr}{done.stdout}")
    return done.stdout


def ip(space: str, words: str) -> str:
    """The command `ip` in a namespace."""
    return inside(space, "ip", *words.split())


def route_to(space: str, address: str = "169.254.169.254") -> str | None:
    """The next hop to an address; None if there is no route, "link" if there is no hop."""
    try:
        words = inside(space, "ip", "-4", "route", "get", address).split()
    except CommandError:
        return None
    return words[words.index("via") + 1] if "via" in words else "link"


def host_routes(space: str) -> dict[str, str]:
    """Destination -> next hop, for all routes that have one."""
    lines = [line.split() for line in inside(space, "ip", "-4", "route").splitlines()]
    return {words[0]: words[2] for words in lines if words[1] == "via"}


def ask(space: str, url: str = "http://169.254.169.254/openstack/latest/meta_data.json") -> str:
    """What curl gets; raises `CommandError` when there is no answer within a second."""
    return inside(space, "curl", "-sSg", "--fail", "--connect-timeout", "1", "-m", "5", url)


def _listening(space: str, listener: PlannedListener) -> socket.socket:
    descriptor = namespaces.open_namespace(space)
    try:
        [sock] = namespaces.listen_in(descriptor, [Bind(listener.address, listener.port, listener.device)])
    finally:
        os.close(descriptor)
    return sock


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def _served(sock, app) -> Iterator[None]:
    sock.setblocking(True)
    server = _Server(sock.getsockname()[:2], _Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = sock
    server.server_name, server.server_port = "metadata", sock.getsockname()[1]
    server.setup_environ()
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _remove_namespace(name: str) -> None:
    with contextlib.suppress(CommandError):
        run("ip", "netns", "delete", name)


def _end(pid_file: Path) -> None:
    """It holds its namespace."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(pid_file.read_text()), 15)
