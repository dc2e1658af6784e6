"""mdmw doctor where Neutron's agents have a haproxy in each namespace, and no mdmw-node runs (spec 4.7)."""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import plants
import pytest
from node.kvm_host import inside, ip, obstacle
from site_of_doctor import Node, doctor

from mdmw.node import namespaces, network_state
from mdmw.node.namespaces import Bind, run

pytestmark = pytest.mark.skipif(bool(obstacle("haproxy")), reason=f"needs root and: {obstacle('haproxy')}")

METADATA = "169.254.169.254"
_CONF = """
global
    user nobody
    group nogroup
    pidfile {pid_file}
    daemon
defaults
    mode http
    option forwardfor
    timeout connect 30s
    timeout client 32s
    timeout server 32s
listen listener
    bind {bind}
    server metadata {agent}
    http-request del-header X-Neutron-{other}-ID
    http-request set-header X-Neutron-{kind}-ID {id}
"""
_RULE = f"-t nat -A PREROUTING -d {METADATA}/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697"


class Neutrons:
    """A network and a router as the DHCP and L3 agents leave them; `words` are for the doctor."""

    def __init__(self, node: Node, directory: Path, stack: contextlib.ExitStack) -> None:
        self.node = node
        self.directory = directory
        self.network, self.router = str(uuid.uuid4()), str(uuid.uuid4())
        self.space, self.router_space = f"qdhcp-{self.network}", f"qrouter-{self.router}"
        self._stack = stack
        options = directory / "neutron.conf"
        options.write_text(f"[DEFAULT]\nstate_path = {directory}\n")
        files = ("--config-file", node.agent_ini, "--config-file", options)
        self.words = [*map(str, files), "--run-dir", str(directory / "none")]
        self.dhcp = directory / "dhcp" / self.network
        (directory / "ns-metadata-proxy").mkdir()
        self.dhcp.mkdir(parents=True)
        for space in (self.space, self.router_space):
            node.host.namespace(space)
        self.cable()
        node.host.cable(self.router_space, "qr-1", node.bridges[1], "fa:16:3e:5b:30:02")
        ip(self.router_space, "link set qr-1 up")
        self.redirect()
        self.write_options()
        self.start_dnsmasq()
        self.start(self.network)
        self.start(self.router)

    def cable(self) -> None:
        self.node.host.cable(self.space, "tap1", self.node.bridges[0], "fa:16:3e:5b:30:01")
        ip(self.space, "link set tap1 up")
        for address in ("10.0.1.3/24", f"{METADATA}/32"):
            ip(self.space, f"address add {address} dev tap1")

    def redirect(self) -> None:
        inside(self.router_space, "iptables", *_RULE.split())

    def write_options(self) -> None:
        line = f"tag:subnet-1,option:classless-static-route,{METADATA}/32,10.0.1.3\n"
        (self.dhcp / "opts").write_text(line)

    def start_dnsmasq(self) -> None:
        words = ["dnsmasq", "--conf-file=/dev/null", "--port=0", f"--pid-file={self.dhcp / 'pid'}"]
        inside(self.space, *words, f"--dhcp-optsfile={self.dhcp / 'opts'}", "--interface=tap1")

    def start(self, id: str) -> None:
        """Its haproxy."""
        is_network = id == self.network
        text = _CONF.format(
            pid_file=self.pid_file(id),
            bind=f"{METADATA}:80" if is_network else "0.0.0.0:9697",
            agent=self.node.socket,
            kind="Network" if is_network else "Router",
            other="Router" if is_network else "Network",
            id=id,
        )
        conf = self.directory / "ns-metadata-proxy" / f"{id}.conf"
        conf.write_text(text)
        inside(self.space if is_network else self.router_space, "haproxy", "-f", str(conf))

    def pid_file(self, id: str) -> Path:
        return self.directory / f"{id}.pid.haproxy"

    def pid(self, id: str) -> int:
        return int(self.pid_file(id).read_text().split()[0])

    def kill(self, id: str) -> None:
        pid = self.pid(id)
        os.kill(pid, signal.SIGKILL)
        plants.until(lambda: plants.is_over(pid))

    def close(self) -> None:
        for path in (self.pid_file(self.network), self.pid_file(self.router), self.dhcp / "pid"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                os.kill(int(path.read_text().split()[0]), signal.SIGKILL)


@pytest.fixture(scope="module")
def theirs(node: Node, tmp_path_factory) -> Iterator[Neutrons]:
    directory = tmp_path_factory.mktemp("neutron")
    with contextlib.ExitStack() as stack:
        made = Neutrons(node, directory, stack)
        stack.callback(made.close)
        of_ours = node.cloud.ports[1]
        interface = dataclasses.replace(of_ours, id=str(uuid.uuid4()), device_id=made.router)
        with plants.attributes(node.cloud, ports=(*node.cloud.ports, interface)):
            yield made


# --- plants -----------------------------------------------------------------------------


@contextlib.contextmanager
def address_taken_away(theirs: Neutrons) -> Iterator[None]:
    ip(theirs.space, f"address delete {METADATA}/32 dev tap1")
    yield
    ip(theirs.space, f"address add {METADATA}/32 dev tap1")


@contextlib.contextmanager
def device_down(theirs: Neutrons) -> Iterator[None]:
    ip(theirs.space, "link set tap1 down")
    yield
    ip(theirs.space, "link set tap1 up")


@contextlib.contextmanager
def device_deleted(theirs: Neutrons) -> Iterator[None]:
    ip(theirs.space, "link delete tap1")
    yield
    theirs.cable()


@contextlib.contextmanager
def option_taken_away(theirs: Neutrons) -> Iterator[None]:
    (theirs.dhcp / "opts").write_text("tag:subnet-1,option:router,10.0.1.1\n")
    yield
    theirs.write_options()


@contextlib.contextmanager
def dnsmasq_killed(theirs: Neutrons) -> Iterator[None]:
    pid = int((theirs.dhcp / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    plants.until(lambda: plants.is_over(pid))
    yield
    theirs.start_dnsmasq()


@contextlib.contextmanager
def rules_flushed(theirs: Neutrons) -> Iterator[None]:
    inside(theirs.router_space, "iptables", "-t", "nat", "-F")
    yield
    theirs.redirect()


@contextlib.contextmanager
def haproxy_killed(theirs: Neutrons) -> Iterator[None]:
    theirs.kill(theirs.network)
    yield
    theirs.start(theirs.network)


@contextlib.contextmanager
def haproxy_of_the_router_killed(theirs: Neutrons) -> Iterator[None]:
    theirs.kill(theirs.router)
    yield
    theirs.start(theirs.router)


@contextlib.contextmanager
def haproxy_stopped(theirs: Neutrons) -> Iterator[None]:
    with plants.stopped(theirs.pid(theirs.network)):
        yield


@contextlib.contextmanager
def web_server_on_the_port(theirs: Neutrons) -> Iterator[None]:
    theirs.kill(theirs.network)
    command = ["ip", "netns", "exec", theirs.space, sys.executable, "-m", "http.server", "80", "--bind"]
    process = subprocess.Popen([*command, METADATA], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    plants.until(lambda: f"{METADATA}:80" in inside(theirs.space, "ss", "-Hltn"))
    yield
    process.kill()
    process.wait()
    theirs.start(theirs.network)


@contextlib.contextmanager
def agents_socket_of_root(theirs: Neutrons) -> Iterator[None]:
    with plants.socket_of_another(theirs.node):
        yield


@contextlib.contextmanager
def agent_stopped(theirs: Neutrons) -> Iterator[None]:
    with plants.agent_stopped(theirs.node):
        yield


@contextlib.contextmanager
def ipv6_on_another_node(theirs: Neutrons) -> Iterator[None]:
    """4.8: duplicate address detection fails, which takes the kernel a second or two."""
    address = "address add fe80::a9fe:a9fe/64 dev"
    other = theirs.node.host.guest(theirs.node.bridges[0], "fa:16:3e:5b:30:09")
    ip(other, f"{address} eth0 nodad")
    ip(theirs.space, f"{address} tap1")
    plants.until(lambda: "dadfailed" in ip(theirs.space, "address show dev tap1"))
    yield
    ip(theirs.space, "address delete fe80::a9fe:a9fe/64 dev tap1")
    ip(other, "link delete eth0")


@contextlib.contextmanager
def backlog_overflowed(theirs: Neutrons) -> Iterator[None]:
    """Of another program of the namespace, which is what the kernel counts too. The count never goes back."""
    (sock,) = namespaces.listen_in(namespaces.open_namespace(theirs.space), [Bind("0.0.0.0", 8099)])
    with sock:
        sock.listen(0)
        command = f"for n in 1 2 3 4; do curl -s -m 0.2 http://{METADATA}:8099 & done; wait"
        subprocess.run(["ip", "netns", "exec", theirs.space, "sh", "-c", command], check=False)
    yield


@contextlib.contextmanager
def namespace_deleted(theirs: Neutrons) -> Iterator[None]:
    run("ip", "netns", "delete", theirs.space)
    yield


_FAULTS = {
    "address taken away": (address_taken_away, "address-missing", METADATA),
    "device down": (device_down, "device-down", "tap1"),
    "device deleted": (device_deleted, "device-missing", "tap*"),
    "option taken away": (option_taken_away, "options-missing", "option 121"),
    "dnsmasq killed": (dnsmasq_killed, "dhcp-dead", "dnsmasq"),
    "rules flushed": (rules_flushed, "rules-missing", "9697"),
    "haproxy killed": (haproxy_killed, "listener-missing", f"{METADATA}:80"),
    "haproxy of the router killed": (haproxy_of_the_router_killed, "listener-missing", "9697"),
    "haproxy stopped": (haproxy_stopped, "listener-hung", "is stopped"),
    "a web server on the port": (web_server_on_the_port, "listener-foreign", "http.server"),
    "agent's socket of root": (agents_socket_of_root, "socket-forbidden", "haproxy"),
    "agent stopped": (agent_stopped, "agent-hung", "stopped"),
    "IPv6 on another node": (ipv6_on_another_node, "address-duplicate", "fe80::a9fe:a9fe"),
    # These two stay.
    "backlog overflowed": (backlog_overflowed, "backlog-overflow", "backlog was full"),
    "namespace deleted": (namespace_deleted, "namespace-missing", "qdhcp-"),
}


def test_nothing_is_wrong(theirs: Neutrons, capsys) -> None:
    found = doctor(capsys, *theirs.words)
    assert (found.status, found.first) == (0, "Nothing is wrong."), found
    assert theirs.space in found.text
    assert "0 connections redirected" in found.text


@pytest.mark.parametrize("fault", _FAULTS)
def test_the_first_line_names_the_fault(theirs: Neutrons, fault: str, capsys) -> None:
    plant, kind, word = _FAULTS[fault]
    with plant(theirs):
        capsys.readouterr()
        found = doctor(capsys, *theirs.words)
    assert found.kind == kind, found
    assert word in " ".join(found.text.partition("known by")[0].split()), found


# --- what is the same for a whole host ---------------------------------------------------


@pytest.mark.skipif(not shutil.which("nsenter"), reason="needs nsenter of util-linux")
def test_connection_tracking_is_full(node: Node, tmp_path) -> None:
    """The limit is the kernel's and for all: only the doctor is shown a lower one, and a real count."""
    limit = tmp_path / "max"
    limit.write_text("1\n")
    space = node.router_space
    inside(space, "iptables", "-I", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW")  # so that it is tracked
    network_state.inside(space, _send)
    shown = f"mount --bind {limit} /proc/sys/net/netfilter/nf_conntrack_max"
    script = f'nsenter --net=/run/netns/{space} {shown} && exec "$@"'
    words = [
        "-m",
        "mdmw",
        "doctor",
        "--within",
        "8",
        "--run-dir",
        str(node.place.directory),
        "--router",
        node.router,
    ]
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    inside(space, "iptables", "-F", "OUTPUT")
    assert done.stdout.startswith(f"FAULT conntrack-full: {space}: "), done
    assert done.returncode == 2


def _send() -> None:
    """Datagrams that are tracked, each by itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for port in range(20000, 20010):
            with contextlib.suppress(ConnectionRefusedError):
                sock.sendto(b"x", ("127.0.0.1", port))
