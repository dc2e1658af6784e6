"""Listeners of mdmw-node: in real namespaces, while guests ask; and what its workers may not do."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import Site, children, namespaces, site
from servers.namespace import Namespace
from servers.nova import Nova
from test_daemon_restart import ADDRESS, NAMES, NETWORKS, Guest, Load, agent, listener  # noqa: F401 - a fixture

from mdmw.cli.main import main
from mdmw.identity import Identity, spawn
from mdmw.node.channel import Channel, pair
from mdmw.node.control import ControlError
from mdmw.node.loop import Loop
from mdmw.node.namespaces import run
from mdmw.node.workers import WorkerLink

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces"
)

MAC = "fa:16:3e:99:00:05"


@pytest.fixture
def place(agent: Nova) -> Iterator[Site]:  # noqa: F811 - the fixture
    with namespaces(*NAMES, addresses=[ADDRESS]), site(agent.path) as made:
        yield made


@pytest.fixture
def cabled() -> Iterator[tuple[str, str]]:
    """A namespace with a DHCP device, tap0, and that of a guest at the other end of its cable."""
    node, guest = f"qdhcp-{uuid.uuid4()}", f"mdmw-{secrets.token_hex(3)}"
    with namespaces(node), namespaces(guest):
        run("ip", "link", "add", "tap0", "netns", node, "type", "veth", "peer", "eth0", "netns", guest)
        run("ip", "-n", node, "link", "set", "tap0", "up")
        run("ip", "-n", guest, "address", "delete", "169.254.169.254/32", "dev", "lo")
        run("ip", "-n", guest, "link", "set", "eth0", "address", MAC, "up")
        run("ip", "-n", guest, "address", "add", "fe80::1234:5678:9abc:def0/64", "dev", "eth0", "nodad")
        run("ip", "-n", guest, "address", "add", f"{ADDRESS}/24", "dev", "eth0")
        run("ip", "-n", guest, "route", "add", "169.254.169.254", "dev", "eth0")
        run("ip", "-n", node, "address", "add", "10.0.0.2/24", "dev", "tap0")
        run("ip", "-n", node, "address", "add", "fe80::a9fe:a9fe/64", "dev", "tap0", "nodad")
        yield node, guest


def curl(namespace: str, host: str) -> str:
    command = ["ip", "netns", "exec", namespace, "curl", "-sS", "-g", "-m", "10", f"http://{host}/x"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def test_r_8_the_mac_is_that_of_the_guest(place: Site, cabled, agent: Nova) -> None:  # noqa: F811
    """R-8, 4.7: over IPv4 and link-local IPv6; on a metadata access network nobody's: a router is between."""
    node, guest = cabled
    network = node.removeprefix("qdhcp-")
    place.started()
    v4, v6 = ["169.254.169.254", 80, None], ["fe80::a9fe:a9fe", 80, "tap0"]
    place.want(*([node, bind, ["network", network]] for bind in (v4, v6)))
    assert curl(guest, "169.254.169.254") == f"/x for {network} {ADDRESS}"
    assert curl(guest, "[fe80::a9fe:a9fe%25eth0]") == f"/x for {network} fe80::1234:5678:9abc:def0"
    assert [request.all("X-Mdmw-Client-MAC") for request in agent.requests] == [[MAC], [MAC]]
    place.want([node, v4, ["router", network]])
    curl(guest, "169.254.169.254")
    assert agent.requests[-1].all("X-Neutron-Router-ID") == [network]
    assert agent.requests[-1].all("X-Mdmw-Client-MAC") == []


def test_listeners_come_and_go_while_guests_ask(place: Site) -> None:
    """None of the requests in the other networks is lost."""
    place.started()
    place.want(*map(listener, NETWORKS))
    extra = [
        [NAMES[0], ["169.254.169.254", port, None], ["network", NETWORKS[0]]] for port in range(8000, 8020)
    ]
    with Load() as load:
        for round_ in range(10):
            load.reaches((round_ + 1) * 100)
            there = extra if round_ % 2 else extra[:5]
            place.want(*map(listener, NETWORKS), *there)
            assert len(place.listeners()) == len(NETWORKS) + len(there)
    assert load.failures == []


def test_a_namespace_that_is_deleted(place: Site) -> None:
    """One line in the log; the others are served on; and when it is back, and still wanted, so is it."""
    place.started()
    place.want(*map(listener, NETWORKS))
    gone = NETWORKS[-1]
    others = [listener(network) for network in NETWORKS[:-1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_daemon_restart.NETWORKS", NETWORKS[:-1])
        with Load() as load:
            load.reaches(200)
            run("ip", "netns", "delete", f"qdhcp-{gone}")
            place.until(lambda: len(place.listeners()) == len(others))
            load.reaches(load.done + 200)
    assert load.failures == []
    place.until(lambda: f"network {gone}, 169.254.169.254:80 in qdhcp-{gone}: cannot listen" in place.log)
    assert place.log.count(f"qdhcp-{gone}: the listener is closed: its namespace is gone") == 1
    with namespaces(f"qdhcp-{gone}", addresses=[ADDRESS]):
        place.until(lambda: len(place.listeners()) == len(NETWORKS))
        Guest(gone, keeps=False).ask()


def test_a_device_that_is_gone(place: Site, cabled) -> None:
    """The IPv6 listener on it ends, with one line; one of the same name is another; IPv4 goes on."""
    node, guest = cabled
    network = node.removeprefix("qdhcp-")
    place.started()
    v4, v6 = ["169.254.169.254", 80, None], ["fe80::a9fe:a9fe", 80, "tap0"]
    place.want(*([node, bind, ["network", network]] for bind in (v4, v6)))
    assert len(place.listeners()) == 2
    run("ip", "-n", node, "link", "delete", "tap0")
    place.wait_for_log(
        f"fe80::a9fe:a9fe]:80 on tap0 in {node}: the listener is closed: its device tap0 is gone"
    )
    assert [one["bind"] for one in place.listeners()] == [v4]
    run("ip", "link", "add", "tap0", "netns", node, "type", "veth", "peer", "eth0", "netns", guest)
    run("ip", "-n", node, "link", "set", "tap0", "up")
    run("ip", "-n", node, "address", "add", "fe80::a9fe:a9fe/64", "dev", "tap0", "nodad")
    run("ip", "-n", guest, "link", "set", "eth0", "address", MAC, "up")
    run("ip", "-n", guest, "address", "add", "fe80::1234:5678:9abc:def0/64", "dev", "eth0", "nodad")
    place.until(lambda: len(place.listeners()) == 2)
    assert curl(guest, "[fe80::a9fe:a9fe%25eth0]").startswith(f"/x for {network} ")


def test_one_network_does_not_starve_the_others(place: Site) -> None:
    """A guest that opens as many connections as it can leaves as many for the others (W-9)."""
    place.started("--workers", "1", "--connections", "40")
    place.want(*map(listener, NETWORKS))
    space = Namespace(NAMES[0])
    taken = []
    try:
        for _ in range(60):
            sock = space.socket(socket.AF_INET)
            sock.settimeout(10)
            taken.append(sock)
            sock.bind((ADDRESS, 0))
            sock.connect(("169.254.169.254", 80))
        place.until(lambda: place.listeners()[0]["open"] == 20)
        for network in NETWORKS[1:]:
            Guest(network, keeps=False).ask()
    finally:
        for sock in taken:
            sock.close()
        space.close()
    Guest(NETWORKS[0], keeps=False).ask()
    place.until(lambda: all(one["open"] == 0 for one in place.listeners()))


def test_counters(place: Site) -> None:
    """What `mdmw node list` and `status` show."""
    keeper = place.started()
    place.want(*map(listener, NETWORKS[:2]))
    for _ in range(3):
        Guest(NETWORKS[0], keeps=False).ask()
    place.until(lambda: [one["connections"] for one in place.listeners()] == [3, 0])
    with place.call() as caller:
        [status] = [message.fields for message in caller.ask("status")]
    assert {key: status[key] for key in ("pid", "listeners", "attached", "workers")} == {
        "pid": keeper.pid,
        "listeners": 2,
        "attached": 0,
        "workers": 2,
    }


# --- privileges -------------------------------------------------------------------------


def test_workers_have_no_privileges(place: Site) -> None:
    """No capability, not in the bounding set either; own user; and nobody but root reads their memory."""
    keeper = place.started()
    [preloader] = children(keeper.pid)
    for pid in (preloader, *place.workers(keeper)):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name
        assert status["NoNewPrivs"] == "1"
        assert status["Uid"].split() == ["65534"] * 4
        assert status["Gid"].split() == ["65534"] * 4
        assert status["Groups"].strip() == ""
        assert status["Umask"] == "0077"
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0  # not dumpable
        assert os.getsid(pid) == preloader
        kinds = {os.readlink(one).partition(":")[0] for one in Path(f"/proc/{pid}/fd").iterdir()}
        assert kinds <= {"/dev/null", str(place.log_file), "anon_inode", "socket"}


_ATTEMPTS = """
import ctypes, json, os, socket, sys
from pathlib import Path
from mdmw.identity import drop_all_privileges
drop_all_privileges()
libc = ctypes.CDLL(None, use_errno=True)
def attempt(deed):
    try:
        return bool(deed())
    except OSError:
        return False
def enter(path):
    descriptor = os.open(path, os.O_RDONLY)
    return libc.setns(descriptor, 0x40000000) == 0
def connect():
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(sys.argv[3])
    return True
channel = socket.socket(fileno=int(sys.argv[1]))
channel.send(json.dumps({
    "named namespace": attempt(lambda: enter(sys.argv[2])),
    "keeper's namespace": attempt(lambda: enter(f"/proc/{os.getppid()}/ns/net")),
    "a new namespace": attempt(lambda: libc.unshare(0x40000000) == 0),
    "control socket": attempt(connect),
    "raw socket": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "port 80": attempt(lambda: socket.create_server(("127.0.0.1", 80))),
    "another user": attempt(lambda: os.setuid(0) is None),
    "keeper's memory": attempt(lambda: Path(f"/proc/{os.getppid()}/mem").open("rb")),
    "shadow": attempt(lambda: Path("/etc/shadow").read_text()),
}).encode())
"""


def test_what_a_compromised_worker_cannot_do(place: Site) -> None:
    """Whatever code runs there: no other namespace, no keeper, no file of root."""
    place.started()
    place.want(*map(listener, NETWORKS[:1]))
    ours, its = pair()
    with ours, its:
        ours.settimeout(20)
        command = [sys.executable, "-c", _ATTEMPTS, str(its.fileno())]
        command += [f"/run/netns/{NAMES[1]}", str(place.directory / "node.sock")]
        pid = spawn(command, Identity(65534, 65534), its.fileno())
        its.close()
        found = json.loads(ours.recv(4096) or b"{}")
        os.waitpid(pid, 0)
    can = {name for name, done in found.items() if done}
    assert len(found) == 9
    assert can == set()


def test_a_worker_that_says_what_it_may_not(place: Site) -> None:
    """A forged worker asks for a namespace: the keeper ends the channel, with one line, and opens nothing."""
    ours, its = pair()
    ends: list[str] = []
    loop = Loop()

    def ended(_: WorkerLink, why: str) -> None:
        ends.append(why)
        loop.stop()

    WorkerLink(loop, ours, {}, lambda: None, ended)
    with its:
        Channel(its, {}).send("attach", name="x", pid=1, scope=["network", NETWORKS[0]], binds=[])
        loop.after(5, loop.stop)
        loop.run()
        assert its.recv(1) == b""
    assert ends == ["a message of kind 'attach'"]


def test_callers_that_are_not_root(place: Site) -> None:
    """The control socket has mode 0600; and whoever gets it all the same is not heard (SO_PEERCRED)."""
    place.started()
    path = place.directory / "node.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(10);"
        's.connect(sys.argv[1]); s.send(b\'{"kind":"status"}\'); print(s.recv(1000))'
    )
    command = [shutil.which("setpriv") or "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run(
        [*command, "/usr/bin/python3", "-c", code, str(path)], capture_output=True, text=True
    )
    assert done.stdout == "b''\n" or "ConnectionResetError" in done.stderr or "BrokenPipe" in done.stderr
    place.wait_for_log("a caller that is not root is refused")


def test_nonsense_on_the_control_socket(place: Site) -> None:
    """The caller is hung up on; the keeper goes on."""
    place.started()
    for data in (b"x", b"{}", b'{"kind":"attach"}', b'{"kind":"want","listeners":[],"more":1}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(10)
            sock.connect(str(place.directory / "node.sock"))
            sock.send(data)
            assert sock.recv(10) == b""
    with place.call() as caller, pytest.raises(ControlError, match="nothing of the name x is attached"):
        caller.tell("detach", name="x")
    assert place.listeners() == []
    assert place.log.count("the connection of a caller is closed: a message") == 4
    assert "Traceback" not in place.log


# --- the commands -----------------------------------------------------------------------


def mdmw_node(place: Site, *words: str) -> int:
    return main(["node", *words, "--socket", str(place.directory / "node.sock")])


def test_mdmw_node_list_and_status(place: Site, capsys) -> None:
    """As a table for people, and as JSON."""
    keeper = place.started()
    place.want(listener(NETWORKS[0]))
    Guest(NETWORKS[0], keeps=False).ask()
    assert mdmw_node(place, "list") == 0
    heading, _, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAMESPACE", "AT", "FOR", "BY", "SINCE", "CONNECTIONS", "OPEN"]
    words = row.split()
    assert words[:5] == [NAMES[0], "169.254.169.254:80", "network", NETWORKS[0], "plan"]
    assert words[-2:] == ["1", "0"]
    assert mdmw_node(place, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["connections"] == 1
    assert mdmw_node(place, "status") == 0
    assert f"pid        {keeper.pid}\n" in capsys.readouterr().out
    assert mdmw_node(place, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["workers"] == 2


def test_mdmw_node_says_what_is_wrong(place: Site, capsys) -> None:
    """Status 2 and one line: nobody is there, or nothing of that name."""
    assert mdmw_node(place, "list") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no keeper is there" in error
    place.started()
    assert mdmw_node(place, "detach", "x") == 2
    assert capsys.readouterr().err == "mdmw: nothing of the name x is attached\n"
