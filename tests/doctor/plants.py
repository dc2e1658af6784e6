"""Faults, one function each: plant it, and mend it at the end of the block."""

import contextlib
import dataclasses
import fcntl
import os
import re
import signal
import socket
import ssl
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from certificates import Authority
from node.kvm_host import inside, ip
from peers import PATIENCE, response
from resolvers.neutron_api import answer, says
from site_of_doctor import Node, Nova
from stopping import stop

from mdmw.cli.main import main
from mdmw.node.namespaces import CommandError, run

Plant = Callable[[Node], contextlib.AbstractContextManager[None]]

_METADATA = "169.254.169.254"
_NOTHING = 9  # a port that nobody listens at


def apply(node: Node) -> None:
    """The command that the doctor names."""
    words = ["--set", f"node_state_path={node.state}", "--file", str(node.inventory)]
    assert main(["node", "apply", "--once", *words]) == 0


@contextlib.contextmanager
def _then(*clean_up: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    finally:
        for step in clean_up:
            step()


@contextlib.contextmanager
def _applied(node: Node) -> Iterator[None]:
    """Inside, the daemon cannot mend anything: who has the lock is alone; then all is mended."""
    try:
        with (node.state / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    finally:
        apply(node)


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that do nothing for a while."""
    for pid in pids:
        stop(pid)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def attributes(thing: object, **values: object) -> Iterator[None]:
    """Other values for a while."""
    before = {name: getattr(thing, name) for name in values}
    for name, value in values.items():
        setattr(thing, name, value)
    with _then(*(lambda n=name, v=value: setattr(thing, n, v) for name, value in before.items())):
        yield


# --- the namespace and what is in it ----------------------------------------------------


@contextlib.contextmanager
def namespace_deleted(node: Node) -> Iterator[None]:
    """The daemon takes a while to notice, and then listens in the new one."""
    began = time.time()
    with _applied(node):
        run("ip", "netns", "delete", node.space)
        yield
    until(
        lambda: any(
            one["namespace"] == node.space and float(str(one["since"])) > began
            for one in node.place.listeners()
        )
    )


@contextlib.contextmanager
def device_deleted(node: Node) -> Iterator[None]:
    with _applied(node):
        ip(node.space, f"link delete {node.device}")
        yield


@contextlib.contextmanager
def device_down(node: Node) -> Iterator[None]:
    with _applied(node):
        ip(node.space, f"link set {node.device} down")
        yield


@contextlib.contextmanager
def address_taken_away(node: Node) -> Iterator[None]:
    with _applied(node):
        ip(node.space, f"address delete {_METADATA}/32 dev {node.device}")
        yield


@contextlib.contextmanager
def default_route_taken_away(node: Node) -> Iterator[None]:
    with _applied(node):
        ip(f"qdhcp-{node.routed}", "route delete default")
        yield


@contextlib.contextmanager
def option_taken_away(node: Node) -> Iterator[None]:
    with _applied(node):
        path = node.state / node.space / "opts"
        path.write_text(re.sub(rf".*{_METADATA}.*\n", "", path.read_text()))
        yield


@contextlib.contextmanager
def dnsmasq_killed(node: Node) -> Iterator[None]:
    with _applied(node):
        pid = int((node.state / node.space / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        until(
            lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        yield


@contextlib.contextmanager
def rules_flushed(node: Node) -> Iterator[None]:
    with _applied(node):
        inside(node.router_space, "nft", "flush", "ruleset")
        yield


@contextlib.contextmanager
def bridge_deleted(node: Node) -> Iterator[None]:
    """And its ports with it; another of that name is made."""
    with _applied(node):
        run("ip", "link", "delete", node.bridges[0])
        yield
        run("ip", "link", "add", node.bridges[0], "type", "bridge")
        run("ip", "link", "set", node.bridges[0], "up")


@contextlib.contextmanager
def setting_changed(node: Node) -> Iterator[None]:
    with _applied(node):
        inside(node.space, "sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=0")
        yield


# --- mdmw-node --------------------------------------------------------------------------


@contextlib.contextmanager
def node_ended(node: Node) -> Iterator[None]:
    node.stop()
    with _then(node.start):
        yield


@contextlib.contextmanager
def keeper_stopped(node: Node) -> Iterator[None]:
    with stopped(node.keeper):
        yield


@contextlib.contextmanager
def worker_stopped(node: Node) -> Iterator[None]:
    with stopped(node.workers[0]):
        yield


@contextlib.contextmanager
def listener_closed(node: Node) -> Iterator[None]:
    node.want(node.listeners[1])
    until(lambda: ":80 " not in inside(node.space, "ss", "-Hltn"))  # the workers have closed it too
    with _then(lambda: node.want(*node.listeners)):
        yield


_SQUATTER = """
defaults
    mode http
    timeout client 5s
    timeout server 5s
    timeout connect 5s
frontend web
    bind 169.254.169.254:80
    http-request return status 200
"""


@contextlib.contextmanager
def haproxy_squats(node: Node) -> Iterator[None]:
    node.want(node.listeners[1])
    path = node.place.directory / "squatter.cfg"
    path.write_text(_SQUATTER)
    process = subprocess.Popen(["ip", "netns", "exec", node.space, "haproxy", "-db", "-f", str(path)])

    def listens() -> bool:
        return f"{_METADATA}:80" in inside(node.space, "ss", "-Hltn")

    def heal() -> None:
        process.kill()
        process.wait()
        node.want(*node.listeners)

    with _then(heal):
        until(listens)
        yield


@contextlib.contextmanager
def few_files(node: Node) -> Iterator[None]:
    pid = node.agents[0]
    run("prlimit", "--pid", str(pid), "--nofile=64:")
    with _then(lambda: run("prlimit", "--pid", str(pid), "--nofile=20000:")):
        yield


@contextlib.contextmanager
def disk_full(node: Node) -> Iterator[None]:
    filler = node.state / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"\0" * 65536)
    with _then(filler.unlink):
        yield


# --- the agent --------------------------------------------------------------------------


@contextlib.contextmanager
def socket_away(node: Node) -> Iterator[None]:
    aside = node.socket.with_suffix(".aside")
    node.socket.rename(aside)
    with _then(lambda: aside.replace(node.socket)):
        yield


@contextlib.contextmanager
def socket_of_another(node: Node) -> Iterator[None]:
    """0600, and root's."""
    before = node.socket.stat()
    os.chown(node.socket, 0, 0)
    node.socket.chmod(0o600)
    with _then(
        lambda: os.chown(node.socket, before.st_uid, before.st_gid), lambda: node.socket.chmod(before.st_mode)
    ):
        yield


@contextlib.contextmanager
def nobody_at_the_socket(node: Node) -> Iterator[None]:
    """As an agent that was killed leaves it."""
    with socket_away(node):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(node.socket))
        node.socket.chmod(0o666)
        yield


@contextlib.contextmanager
def backlog_of_the_agent_full(node: Node) -> Iterator[None]:
    with socket_away(node), contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(str(node.socket))
        node.socket.chmod(0o666)
        sock.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(node.socket))
        yield


@contextlib.contextmanager
def agent_stopped(node: Node) -> Iterator[None]:
    with stopped(*node.agents):
        yield


# --- Keystone, Neutron, Nova ------------------------------------------------------------


@contextlib.contextmanager
def password_changed(node: Node) -> Iterator[None]:
    node.write_agent(password="of-last-year")
    with _then(node.write_agent):
        yield


def keystone_says(status: str) -> Plant:
    said = says(answer({"error": {"message": "no"}}, status))
    return lambda node: attributes(node.cloud.keystone_faults, always=said)


def neutron_says(status: str) -> Plant:
    said = says(answer({"NeutronError": {"message": "no"}}, status))
    return lambda node: attributes(node.cloud.neutron_faults, always=said)


@contextlib.contextmanager
def keystone_silent(node: Node) -> Iterator[None]:
    with attributes(node.cloud.keystone_faults, always=lambda conversation: conversation.hold()):
        yield


@contextlib.contextmanager
def port_unknown(node: Node) -> Iterator[None]:
    with attributes(node.cloud, ports=node.cloud.ports[1:]):
        yield


@contextlib.contextmanager
def two_ports(node: Node) -> Iterator[None]:
    other = dataclasses.replace(node.port, id=str(uuid.uuid4()), device_id=str(uuid.uuid4()))
    with attributes(node.cloud, ports=(*node.cloud.ports, other)):
        yield


@contextlib.contextmanager
def another_machine(node: Node) -> Iterator[None]:
    """Answers ARP for the guest's address."""
    guest = node.host.guest(node.bridges[0], "fa:16:3e:5b:66:66")
    ip(guest, f"address add {node.address}/24 dev eth0")
    with contextlib.suppress(CommandError):
        inside(guest, "curl", "-s", "-m", "2", f"http://10.0.1.1:{_NOTHING}")  # makes itself known by ARP
    with _then(
        lambda: ip(guest, "link delete eth0"),
        lambda: ip(node.space, f"neigh flush dev {node.device}"),
    ):
        yield


def nova_says(status: str) -> Plant:
    return lambda node: attributes(node.nova, act=says(response(status, b"no")))


@contextlib.contextmanager
def nova_silent(node: Node) -> Iterator[None]:
    with attributes(node.nova, act=lambda conversation: conversation.hold()):
        yield


@contextlib.contextmanager
def nova_refuses_connections(node: Node) -> Iterator[None]:
    where = node.peers.refusing()
    node.write_agent(nova_metadata_port=where.port)
    with _then(node.write_agent):
        yield


@contextlib.contextmanager
def other_secret(node: Node) -> Iterator[None]:
    with attributes(node.nova, secret="of-somebody-else"):
        yield


@contextlib.contextmanager
def other_project(node: Node) -> Iterator[None]:
    with attributes(node.nova, project="p"):
        yield


@contextlib.contextmanager
def clock_ahead(node: Node) -> Iterator[None]:
    with attributes(node.nova, skew=300.0):
        yield


def _with_tls(node: Node, **options: object) -> contextlib.AbstractContextManager[None]:
    node.write_agent(nova_metadata_protocol="https", **options)
    return _then(node.write_agent)


@contextlib.contextmanager
def certificate_expired(node: Node) -> Iterator[None]:
    authority = Authority(node.place.directory, "expired")
    there = Nova(node.peers, node.guest, authority.server("127.0.0.1", expired=True)).peer.address
    with _with_tls(node, nova_metadata_port=there.port, auth_ca_cert=authority.file):
        yield


@contextlib.contextmanager
def certificate_ends(node: Node) -> Iterator[None]:
    """Tomorrow."""
    authority = Authority(node.place.directory, "tomorrow")
    there = Nova(node.peers, node.guest, authority.server("127.0.0.1")).peer.address
    with _with_tls(node, nova_metadata_port=there.port, auth_ca_cert=authority.file):
        yield


@contextlib.contextmanager
def client_certificate_expired(node: Node) -> Iterator[None]:
    authority = Authority(node.place.directory, "client")
    context: ssl.SSLContext = authority.server("127.0.0.1", clients=authority.file)
    there = Nova(node.peers, node.guest, context).peer.address
    cert, key = authority.issue("agent", expired=True)
    options = {"nova_client_cert": cert, "nova_client_priv_key": key, "auth_ca_cert": authority.file}
    with _with_tls(node, nova_metadata_port=there.port, **options):
        yield


@contextlib.contextmanager
def option_misspelt(node: Node) -> Iterator[None]:
    node.write_agent(nova_metadata_port="eighty")
    with _then(node.write_agent):
        yield


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does; a look now and then, since nobody tells."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_over(pid: int) -> bool:
    """Whether a process has ended; that its parent has taken note of it does not count."""
    with contextlib.suppress(FileNotFoundError):
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    return True
