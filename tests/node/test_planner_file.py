"""mdmw-node without OpenStack: from a file to guests that are answered, whatever happens on the way.

One daemon for most of the tests, on a host with two networks: one that is isolated, and one behind a router.
"""

import contextlib
import dataclasses
import json
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import Site, children, site
from kvm_host import Host, ask, host_routes, inside, ip, made, without_clients

from mdmw.cli.main import main
from mdmw.node.namespaces import CommandError, run

pytestmark = pytest.mark.skipif(bool(without_clients()), reason=f"needs root and: {without_clients()}")

METADATA = "169.254.169.254"
_INI = """
[pipeline:standalone]
pipeline = identify resolve responder
[filter:identify]
use = egg:mdmw#source-identify
mode = listener
client_mac = true
[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = inventory
inventory_file = {inventory}
[app:responder]
use = egg:mdmw#responder
inventory_file = {inventory}
password_db = {directory}/passwords
"""


def some_id() -> str:
    return str(uuid.uuid4())


@dataclasses.dataclass
class Network:
    """A network with one guest; `number` makes its addresses."""

    number: int
    bridge: str
    router: str = ""
    subnet_v6: str = ""
    id: str = dataclasses.field(default_factory=some_id)
    subnet: str = dataclasses.field(default_factory=some_id)
    guest: str = dataclasses.field(default_factory=some_id)
    port: str = dataclasses.field(default_factory=some_id)

    @property
    def mac(self) -> str:
        return f"fa:16:3e:5b:20:{self.number:02x}"

    @property
    def address(self) -> str:
        return f"10.0.{self.number}.9"

    @property
    def space(self) -> str:
        return f"qdhcp-{self.id}"

    def device(self) -> str:
        """The device of the DHCP port."""
        return next(name for name in ip(self.space, "-br link").split() if name.startswith("tap")).split("@")[
            0
        ]

    def described(self) -> dict[str, Any]:
        subnet = {"id": self.subnet, "cidr": f"10.0.{self.number}.0/24"}
        if self.router:
            subnet["gateway_ip"] = f"10.0.{self.number}.1"
        subnets = [subnet]
        if self.subnet_v6:
            v6 = {"id": self.subnet_v6, "cidr": f"fd00:{self.number}::/64", "ipv6_address_mode": "slaac"}
            subnets.append(v6)
        return {"id": self.id, "bridge": self.bridge, "subnets": subnets}

    def instance(self) -> dict[str, Any]:
        port = {"id": self.port, "network": self.id, "mac": self.mac, "addresses": [self.address]}
        return {"id": self.guest, "project_id": "p", "name": f"g{self.number}", "ports": [port]}


class Kvm:
    """The host, its file and its daemon; `guests` are namespaces with a lease, in the order of `networks`."""

    pipelines = _INI

    def __init__(self, host: Host, place: Site) -> None:
        self.host = host
        self.place = place
        self.networks = [Network(1, host.bridge()), Network(2, host.bridge(), router=some_id())]
        self.inventory = host.directory / "inventory.yaml"
        self.options = place.directory / "dhcp_agent.ini"
        self.options.write_text("[DEFAULT]\n")
        self.options.chmod(0o600)  # the planner reads it before it gives up what it has of root
        self.write()
        place.ini.write_text(self.pipelines.format(inventory=self.inventory, directory=host.directory))
        self.keeper = place.started(*self.arguments)
        self.until_listening(*self.networks)
        self.guests = [host.guest(network.bridge, network.mac) for network in self.networks]
        for guest, client in zip(self.guests, ("udhcpc", "dhclient"), strict=True):
            host.lease(guest, client)

    @property
    def arguments(self) -> list[str]:
        state = f"node_state_path={self.host.places.state}"
        words = ["--pipeline", "standalone", *self.source, "--set", state]
        return [*words, "--config-file", str(self.options), "--look-interval", "1"]

    @property
    def source(self) -> list[str]:
        return ["--file", str(self.inventory)]

    def write(self, *more: Network, instances: tuple[dict[str, Any], ...] = ()) -> None:
        """The file, with these networks too; in the place of the old one at once."""
        networks = [*self.networks, *more]
        content = {
            "networks": [network.described() for network in networks],
            "routers": [
                {"id": network.router, "interfaces": [{"subnet": network.subnet}]}
                for network in networks
                if network.router
            ],
            "instances": [*(network.instance() for network in networks), *instances],
        }
        self.write_text(json.dumps(content))

    def write_text(self, text: str) -> None:
        temporary = self.inventory.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(self.inventory)

    def until_listening(self, *networks: Network) -> None:
        wanted = {network.router or network.id for network in networks}
        self.place.until(lambda: wanted <= self.served())

    def served(self) -> set[str]:
        return {one["scope"][1] for one in self.place.listeners()}

    def is_answered(self, number: int) -> bool:
        """Whether a guest gets its own uuid."""
        try:
            return bool(json.loads(ask(self.guests[number]))["uuid"] == self.networks[number].guest)
        except CommandError:
            return False

    def until_answered(self) -> None:
        for number in range(len(self.guests)):
            self.place.until(lambda number=number: self.is_answered(number))

    def dnsmasq(self, network: Network) -> int:
        return int((self.host.places.state / network.space / "pid").read_text())

    @property
    def actions(self) -> int:
        """How many were done so far."""
        return self.place.log.count(" mdmw.node.converge ")

    @property
    def planner(self) -> int:
        [found] = [pid for pid in children(self.keeper.pid) if "planner" in command_of(pid)]
        return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A directory on a file system of a quarter of a MiB."""
    with tempfile.TemporaryDirectory(prefix="mdmw") as name:
        run("mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "none", name)
        try:
            yield Path(name)
        finally:
            run("umount", name)


@pytest.fixture(scope="module")
def shared() -> Iterator[Kvm]:
    with small_disk() as disk, made() as host, site() as place:
        host.places = dataclasses.replace(host.places, state=disk)
        yield Kvm(host, place)


@pytest.fixture
def kvm(shared: Kvm) -> Iterator[Kvm]:
    """As it was in the beginning."""
    shared.until_answered()
    yield shared
    shared.write()


def test_from_a_file_to_an_answer(kvm: Kvm) -> None:
    """4.3: option 121 leads to the DHCP port where nobody routes; the router serves the other network."""
    alone, routed = kvm.guests
    assert host_routes(alone)[METADATA] == "10.0.1.1"
    assert METADATA not in host_routes(routed) or host_routes(routed)[METADATA] == "10.0.2.1"
    assert kvm.served() == {kvm.networks[0].id, kvm.networks[1].router}


def meddle(kvm: Kvm, how: str) -> None:
    network, space = kvm.networks[0], kvm.networks[0].space
    router = f"qrouter-{kvm.networks[1].router}"
    commands: dict[str, Callable[[], object]] = {
        "namespace deleted": lambda: run("ip", "netns", "delete", space),
        "device renamed": lambda: ip(space, f"link set {network.device()} down name other0"),
        "address taken away": lambda: ip(space, f"addr del {METADATA}/32 dev {network.device()}"),
        "table flushed": lambda: inside(router, "nft", "flush", "ruleset"),
        "router deleted": lambda: run("ip", "netns", "delete", router),
    }
    commands[how]()


@contextlib.contextmanager
def load(kvm: Kvm, number: int) -> Iterator[None]:
    """A guest that asks all the while, and gets its answer each time."""
    ending, answers = threading.Event(), []

    def go() -> None:
        while not ending.is_set():
            answers.append(kvm.is_answered(number))

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
    assert answers
    assert all(answers)


@pytest.mark.parametrize(
    ("how", "hurts"),
    [
        *[("namespace deleted", 0), ("device renamed", 0), ("address taken away", 0)],
        *[("table flushed", 1), ("router deleted", 1)],
    ],
)
def test_what_somebody_did_is_undone(kvm: Kvm, how: str, hurts: int) -> None:
    """Within seconds; the guest of the other network notices nothing."""
    done = kvm.actions
    with load(kvm, 1 - hurts):
        meddle(kvm, how)
        kvm.place.until(lambda: kvm.actions > done and kvm.is_answered(hurts))
    assert kvm.dnsmasq(kvm.networks[0])


def test_a_dnsmasq_that_is_killed(kvm: Kvm) -> None:
    """Another is started, and gives out leases."""
    network = kvm.networks[0]
    killed = kvm.dnsmasq(network)
    os.kill(killed, signal.SIGKILL)
    kvm.place.until(lambda: kvm.dnsmasq(network) != killed)
    inside(kvm.guests[0], "ip", "addr", "flush", "dev", "eth0")
    kvm.host.lease(kvm.guests[0], "udhcpc")
    assert kvm.is_answered(0)


def test_a_network_comes_and_goes(kvm: Kvm) -> None:
    """Served while the others are; then all that was made for it is gone, and nothing else."""
    bystander = kvm.host.namespace(f"qdhcp-{some_id()}")
    network = Network(3, kvm.host.bridge())
    devices = set(os.listdir("/sys/class/net"))
    with load(kvm, 0):
        kvm.write(network)
        kvm.until_listening(network)
        guest = kvm.host.guest(network.bridge, network.mac)
        kvm.host.lease(guest, "udhcpc")
        assert json.loads(ask(guest))["uuid"] == network.guest
        run("ip", "netns", "delete", guest)
        kvm.write()
        kvm.place.until(
            lambda: not [path for path in kvm.host.places.state.iterdir() if network.id in path.name]
        )
    assert network.space not in os.listdir("/run/netns")
    assert network.id not in kvm.served()
    assert bystander in os.listdir("/run/netns")
    assert {name for name in os.listdir("/sys/class/net") if not name.startswith("veth")} >= {
        name for name in devices if name.startswith("mdmw")
    }


def test_a_file_with_a_mistake(kvm: Kvm, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, in the log and in `mdmw node status`; the last plan stays in force."""
    good = kvm.inventory.read_text()
    kvm.write_text(good.replace("10.0.1.0/24", "10.0.1.0/99"))
    kvm.place.wait_for_log("the last plan stays in force")
    [line] = [line for line in kvm.place.log.splitlines() if "/99" in line]
    assert f" {kvm.inventory}:1: networks[0].subnets[0].cidr: " in line
    socket = ["--socket", str(kvm.place.directory / "node.sock")]
    assert main(["node", "status", *socket]) == 0
    assert f"problem: {kvm.inventory}:1: " in capsys.readouterr().out
    assert main(["node", "status", "--json", *socket]) == 0
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 1
    assert kvm.is_answered(0)
    kvm.inventory.chmod(0)
    kvm.place.wait_for_log("Permission denied")
    kvm.write()
    kvm.place.wait_for_log("the planner can read its source again")
    assert main(["node", "status", *socket]) == 0
    shown = capsys.readouterr().out
    assert "problem" not in shown
    assert " seconds ago" in shown


def test_4_8_another_node_has_the_ipv6_address(kvm: Kvm) -> None:
    """Spec 4.8: the network without a rival is served by IPv6 too, the other one by IPv4."""
    lucky, loser = (Network(n, kvm.host.bridge(), subnet_v6=some_id()) for n in (7, 8))
    rival = kvm.host.guest(loser.bridge, "fa:16:3e:5b:20:aa")
    ip(rival, "addr add fe80::a9fe:a9fe/64 dev eth0 nodad")
    kvm.write(lucky, loser)

    def addresses(network: Network) -> set[str]:
        return {one["bind"][0] for one in kvm.place.listeners() if one["scope"][1] == network.id}

    kvm.place.until(lambda: addresses(lucky) == {METADATA, "fe80::a9fe:a9fe"})
    kvm.place.until(lambda: f"{loser.space}: remove fe80::a9fe:a9fe/128" in kvm.place.log)
    kvm.place.until(lambda: addresses(loser) == {METADATA})
    assert addresses(lucky) == {METADATA, "fe80::a9fe:a9fe"}
    kvm.write()
    kvm.place.until(lambda: not {lucky.space, loser.space} & set(os.listdir("/run/netns")))


def test_a_full_disk(kvm: Kvm) -> None:
    """One line says what to do; the old files are used as long, and the new ones once there is room."""
    state = kvm.host.places.state
    hosts = state / kvm.networks[0].space / "hosts"
    before = hosts.read_text()
    filler = state / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)
    try:
        more = Network(1, "")
        more.id = kvm.networks[0].id
        port = {"id": some_id(), "network": more.id, "mac": "fa:16:3e:5b:20:77", "addresses": ["10.0.1.77"]}
        kvm.write(instances=({"id": some_id(), "project_id": "p", "name": "more", "ports": [port]},))
        kvm.place.wait_for_log("make room on the disk")
        assert hosts.read_text() == before
        assert kvm.is_answered(0)
        inside(kvm.guests[0], "ip", "addr", "flush", "dev", "eth0")
        kvm.host.lease(kvm.guests[0], "udhcpc")
    finally:
        filler.unlink()
    kvm.place.until(lambda: "10.0.1.77" in hosts.read_text())
    kvm.place.wait_for_log("the node is as planned again")
    lines = [line for line in kvm.place.log.splitlines() if "make room on the disk" in line]
    assert len(lines) <= 2  # what is written first differs


def test_a_bridge_that_is_missing(kvm: Kvm) -> None:
    """One line says what to do; it is served as soon as it was done."""
    network = Network(4, kvm.host.name("b"))
    kvm.write(network)
    kvm.place.wait_for_log(f"this host has no bridge {network.bridge}; make the bridge")
    run("ip", "link", "add", network.bridge, "type", "bridge")
    try:
        kvm.until_listening(network)
        kvm.write()
        kvm.place.until(lambda: network.space not in os.listdir("/run/netns"))
    finally:
        run("ip", "link", "delete", network.bridge)


def test_a_planner_that_is_killed(kvm: Kvm) -> None:
    """Another takes its place, and nothing changes meanwhile."""
    killed, listeners = kvm.planner, {one["since"] for one in kvm.place.listeners()}
    os.kill(killed, signal.SIGKILL)
    kvm.place.wait_for_log("another is started, and the last plan stays in force")
    kvm.place.until(lambda: [pid for pid in children(kvm.keeper.pid) if "planner" in command_of(pid)] != [])
    assert kvm.planner != killed
    network = Network(5, kvm.host.bridge())
    kvm.write(network)
    kvm.until_listening(network)
    assert listeners < {one["since"] for one in kvm.place.listeners()}


def test_the_planner_has_no_privileges(kvm: Kvm) -> None:
    """As workers: no capability, a user of its own, nobody but root reads its memory, nothing to ask for."""
    pid = kvm.planner
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split() == ["65534"] * 4
    assert os.stat(f"/proc/{pid}/environ").st_uid == 0  # not dumpable
    kinds = {os.readlink(one).partition(":")[0] for one in Path(f"/proc/{pid}/fd").iterdir()}
    assert kinds <= {"/dev/null", str(kvm.place.log_file), "socket"}


def test_new_options(kvm: Kvm) -> None:
    """SIGHUP: bad ones are told of in one line, and change nothing; good ones are in force."""
    routed = kvm.networks[1]
    kvm.options.write_text("[DEFAULT]\nmetadata_port = 0\n")
    kvm.keeper.send_signal(signal.SIGHUP)
    kvm.place.wait_for_log("the planner keeps the options that it has; it cannot use the new ones: ")
    assert "'metadata_port'" in kvm.place.log
    kvm.options.write_text("[DEFAULT]\nforce_metadata = true\n")
    kvm.keeper.send_signal(signal.SIGHUP)
    kvm.place.until(lambda: routed.id in kvm.served())
    kvm.options.write_text("[DEFAULT]\n")
    kvm.keeper.send_signal(signal.SIGHUP)
    kvm.place.until(lambda: routed.id not in kvm.served())


def test_from_one_keeper_to_the_next(kvm: Kvm) -> None:
    """What is planned meanwhile is served by the new one; the guests notice nothing."""
    network = Network(6, kvm.host.bridge())
    with load(kvm, 0), load(kvm, 1):
        older = kvm.keeper
        kvm.place.supervisor.forget()
        kvm.keeper = kvm.place.start(*kvm.arguments)
        kvm.write(network)
        kvm.place.supervisor.wait_for("READY=1")
        assert older.wait(30) == 0
        kvm.until_listening(network)
    kvm.write()
    kvm.place.until(lambda: network.id not in kvm.served())


def test_a_stop_leaves_all_in_its_place(kvm: Kvm) -> None:
    """Leases go on; the next daemon finds nothing to do but to listen."""
    kvm.keeper.terminate()
    assert kvm.keeper.wait(20) == 0
    assert "dnsmasq" in command_of(kvm.dnsmasq(kvm.networks[0]))
    done = kvm.actions
    kvm.place.supervisor.drop()
    kvm.keeper = kvm.place.started(*kvm.arguments)
    kvm.until_answered()
    assert kvm.actions == done
    assert "Traceback" not in kvm.place.log, kvm.place.log


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "firewall=ufw"], "'firewall'"),
        (["--file", "x", "--set", "node_state_path=here"], "node: here: an absolute path is allowed"),
        (["--set", "host=x"], "no credentials for Neutron"),
        (["--file", "x", "--planner-user", "root"], "--planner-user root is not allowed"),
    ],
)
def test_mistakes_at_the_start(words: list[str], said: str) -> None:
    """Status 2 and one line."""
    with site() as place:
        assert place.start(*words).wait(20) == 2
        [line] = place.log.splitlines()
    assert line.startswith("mdmw-node: ")
    assert said in line
