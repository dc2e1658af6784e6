"""A plan becomes so, on a real kernel: once, again, after a crash, after somebody's meddling."""

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from kvm_host import CONVERGE, Host, inside, ip, made, obstacle

from mdmw.node.actions import ReloadProgram, RemoveAddress, StartProgram, WriteFile, WriteMarker
from mdmw.node.apply import apply, write
from mdmw.node.converge import converge, examine
from mdmw.node.desired import Places
from mdmw.node.plan import Options, Plan, dumps, plan
from mdmw.node.view import NodeView, RouterView, SubnetView
from mdmw.resolvers.contract import Port

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=f"needs root and: {obstacle()}")

SUBNET = "a507c135-12b9-419c-ab43-ecaa7ca57f83"
V6 = "fe80::a9fe:a9fe/128"
ISOLATED = {"enable_isolated_metadata": True}
GUEST = """
instances:
  - id: 7c52af88-d14b-45ae-87cf-be154d8c8638
    project_id: p
    name: g
    ports:
      - {{id: a3f04c61-8e2d-47b9-95d0-c6e71b8f2a43, network: {network}, mac: "fa:16:3e:5b:10:05",
         addresses: [{address}]}}
"""


def inventory(network, router, bridge, *, ipv6=False, address="172.17.17.5"):
    """One network with a router, on a bridge."""
    v6 = f"{{id: {uuid.uuid4()}, cidr: 'fd00:a::/64', ipv6_address_mode: slaac}}"
    return f"""
networks:
  - id: {network}
    bridge: {bridge}
    subnets:
      - {{id: {SUBNET}, cidr: 172.17.17.0/24, gateway_ip: 172.17.17.254}}
      {"- " + v6 if ipv6 else ""}
routers:
  - id: {router}
    interfaces: [{{subnet: {SUBNET}}}]
{GUEST.format(network=network, address=address)}"""


@dataclasses.dataclass
class Site:
    """A host with one network and its router; `plan` is what they need."""

    host: Host
    bridge: str
    network: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    router: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))

    def plan(self, **more):
        text = inventory(self.network, self.router, self.bridge, **more)
        return self.host.plan(text, **ISOLATED)

    @property
    def places(self):
        return self.host.places

    @property
    def dhcp(self):
        return f"qdhcp-{self.network}"

    @property
    def spaces(self):
        return self.dhcp, f"qrouter-{self.router}"


@pytest.fixture
def site():
    with made() as host:
        yield Site(host, host.bridge())


@pytest.fixture(scope="module")
def long_lived_site():
    """For tests that leave it as it was."""
    with made() as host:
        yield Site(host, host.bridge())


def shown(space):
    """What a person sees in a namespace, without what differs each time."""
    out = [inside(space, "nft", "list", "ruleset"), ip(space, "-4 route"), ip(space, "-6 route show default")]
    for link in json.loads(ip(space, "-j addr")):
        addresses = [(a["local"], a["prefixlen"]) for a in link["addr_info"] if a["family"] == "inet"]
        out.append((link["ifname"], link["address"], link["operstate"], addresses))
    return out


def actions(wanted, places):
    return [action for one in examine(wanted, places) for action in one.actions]


def pid_of(site):
    return int((site.places.state / site.dhcp / "pid").read_text())


def until(holds, seconds=10):
    """Waits for something that the kernel or dnsmasq does by itself."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- once, and again --------------------------------------------------------------------


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_a_second_run_does_nothing(site, firewall):
    site.host.places = dataclasses.replace(site.places, firewall=firewall)
    wanted = site.plan()
    assert len(site.host.converge(wanted).actions) > 20
    assert site.host.converge(wanted).actions == ()
    assert actions(wanted, site.places) == []


def test_looking_touches_nothing(site):
    wanted = site.plan()
    assert len(actions(wanted, site.places)) > 20
    assert not site.places.state.exists()
    assert not [name for name in os.listdir("/run/netns") if name in site.spaces]


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_from_one_firewall_to_the_other(site, firewall):
    other = {"nftables": "iptables", "iptables": "nftables"}[firewall]
    wanted = site.plan()
    site.host.converge(wanted, dataclasses.replace(site.places, firewall=other))
    site.host.places = dataclasses.replace(site.places, firewall=firewall)
    site.host.converge(wanted)
    assert site.host.converge(wanted).actions == ()
    space = site.spaces[1]
    has_nft = "table inet mdmw" in inside(space, "nft", "list", "tables")
    has_iptables = "mdmw-" in inside(space, "iptables-save") + inside(space, "ip6tables-save")
    assert (has_nft, has_iptables) == ((True, False) if firewall == "nftables" else (False, True))


def test_p_7_other_rules_stay(site):
    """P-7: chains of our own; whatever else is in the tables is not ours."""
    site.host.places = dataclasses.replace(site.places, firewall="iptables")
    wanted, space = site.plan(), site.spaces[1]
    site.host.converge(wanted)
    inside(space, *["iptables", "-A", "FORWARD", "-s", "10.1.2.3/32", "-j", "ACCEPT"])
    inside(space, *["iptables", "-t", "nat", "-N", "others"])
    inside(space, "iptables", "-F", "mdmw-FORWARD")
    site.host.converge(wanted)
    saved = inside(space, "iptables-save")
    assert "-A FORWARD -s 10.1.2.3/32 -j ACCEPT" in saved
    assert ":others - [0:0]" in saved
    assert saved.count("-j mdmw-FORWARD") == saved.count("-j mdmw-PREROUTING") - 1 == 1
    site.host.converge(dataclasses.replace(wanted, routers=()))


def test_p_7_other_tables_stay(site):
    """P-7: with nftables, a table of our own."""
    wanted, space = site.plan(), site.spaces[1]
    other = "table inet others { chain mdmw { counter drop; }; }"
    site.host.converge(wanted)
    inside(space, "nft", other)
    assert site.host.converge(wanted).actions == ()
    inside(space, "nft", "delete table inet mdmw")
    site.host.converge(wanted)
    assert site.host.converge(wanted).actions == ()
    assert "drop" in inside(space, "nft", "list", "table", "inet", "others")


# --- crashes ----------------------------------------------------------------------------


def test_a_crash_after_any_action_heals(site):
    """Stopped after each action in turn, making it and taking it away; the next run ends the same."""
    wanted = site.plan()
    site.host.converge(wanted)
    as_it_is = [shown(space) for space in site.spaces]
    site.host.converge(Plan())
    count = len(actions(wanted, site.places))
    for stop in range(1, count, 1):
        for action in actions(wanted, site.places)[:stop]:
            apply(action, site.places)
        site.host.converge(wanted)
        assert actions(wanted, site.places) == [], stop
        if stop % 5 == 0:
            assert [shown(space) for space in site.spaces] == as_it_is, stop
        taken = actions(Plan(), site.places)
        for action in taken[: stop % len(taken)]:
            apply(action, site.places)
        site.host.converge(Plan())
        assert not [name for name in os.listdir("/run/netns") if name in site.spaces], stop
        assert [path.name for path in site.places.state.iterdir()] == ["lock"], stop


@pytest.mark.parametrize("milliseconds", [1, 8, 20, 40, 70])
def test_a_killed_process_heals(site, milliseconds):
    """SIGKILL within an action, wherever that is."""
    wanted = site.plan()
    command = [sys.executable, "-c", CONVERGE, str(site.places.state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(dumps(wanted) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        time.sleep(milliseconds / 1000)
        process.kill()
    site.host.converge(wanted)
    assert site.host.converge(wanted).actions == ()


def test_a_crash_between_a_file_and_the_signal(site):
    """dnsmasq is told by the next run."""
    site.host.converge(site.plan())
    wanted = site.plan(address="172.17.17.6")
    todo = actions(wanted, site.places)
    kinds = [type(action) for action in todo]
    assert kinds == [WriteMarker, WriteFile, ReloadProgram, WriteMarker]
    for action in todo[:2]:
        apply(action, site.places)
    assert [type(action) for action in site.host.converge(wanted).actions] == [ReloadProgram, WriteMarker]


def test_a_name_that_leads_to_no_namespace(site):
    """`ip netns add` was killed in the middle."""
    wanted = site.plan()
    first, *_ = actions(wanted, site.places)
    apply(first, site.places)
    (Path("/run/netns") / site.dhcp).touch()
    site.host.converge(wanted)
    assert site.host.converge(wanted).actions == ()


# --- meddling ---------------------------------------------------------------------------


def meddle(site, how):
    dhcp, router = site.spaces
    tap = next(name for name in ip(dhcp, "-br link").split() if name.startswith("tap")).partition("@")[0]
    outer = f"mdmw{tap.removeprefix('tap')}"
    commands = {
        "flushed": lambda: inside(router, "nft", "flush", "ruleset"),
        "emptied": lambda: inside(router, "nft", "flush", "table", "inet", "mdmw"),
        "added to": lambda: inside(
            router, *["nft", "insert", "rule", "inet", "mdmw", "guests-input", "accept"]
        ),
        "address": lambda: ip(dhcp, f"addr del 172.17.17.1/24 dev {tap}"),
        "metadata address": lambda: ip(dhcp, f"addr del 169.254.169.254/32 dev {tap}"),
        "stranger": lambda: ip(dhcp, f"addr add 10.9.9.9/24 dev {tap}"),
        "route": lambda: ip(dhcp, "route replace default via 172.17.17.99"),
        "no route": lambda: ip(dhcp, "route del default"),
        "down": lambda: ip(dhcp, f"link set {tap} down"),
        "lo": lambda: ip(dhcp, "link set lo down"),
        "loose": lambda: subprocess.run(["ip", "link", "set", outer, "nomaster"], check=True),
        "gone": lambda: subprocess.run(["ip", "link", "delete", outer], check=True),
        "renamed": lambda: ip(dhcp, f"link set {tap} down name other0"),
        "other MAC": lambda: ip(dhcp, f"link set {tap} address 02:00:00:00:00:01"),
        "sysctl": lambda: inside(dhcp, "sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=0"),
        "killed": lambda: os.kill(pid_of(site), signal.SIGKILL),
        "options": lambda: (site.places.state / dhcp / "opts").unlink(),
        "namespace": lambda: subprocess.run(["ip", "netns", "delete", dhcp], check=True),
        "router": lambda: subprocess.run(["ip", "netns", "delete", router], check=True),
    }
    commands[how]()


@pytest.mark.parametrize(
    "how",
    [
        *("flushed", "emptied", "added to", "address", "metadata address", "stranger", "route", "no route"),
        *("down", "lo", "loose", "gone", "renamed", "other MAC", "sysctl", "killed", "options", "namespace"),
        "router",
    ],
)
def test_whatever_somebody_did_is_undone(long_lived_site, how):
    """P-3, P-5, P-7: rules flushed, devices renamed, addresses and sysctls changed, dnsmasq killed."""
    site = long_lived_site
    wanted = site.plan()
    site.host.converge(wanted)
    as_it_is = [shown(space) for space in site.spaces]
    meddle(site, how)
    until(lambda: actions(wanted, site.places))
    assert site.host.converge(wanted).actions
    assert site.host.converge(wanted).actions == ()
    until(lambda: [shown(space) for space in site.spaces] == as_it_is)
    assert Path(f"/proc/{pid_of(site)}/cmdline").read_text().startswith("dnsmasq")


def test_a_missing_bridge_does_not_hurt_the_others(site):
    other = Site(site.host, "mdmw-none")
    there, absent = site.plan(), other.plan()
    both = Plan((*absent.dhcp, *there.dhcp), (*absent.routers, *there.routers))
    report = converge(both, site.places)
    assert sorted(report.problems) == [
        f"{space}: this host has no bridge mdmw-none; make the bridge" for space in sorted(other.spaces)
    ]
    assert actions(there, site.places) == []


def test_p_12_only_our_dnsmasq_is_stopped(site):
    """P-12: a pid file that names another process is not believed."""
    wanted = site.plan()
    site.host.converge(wanted)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        pid_file = site.places.state / site.dhcp / "pid"
        ours = pid_file.read_text()
        pid_file.write_text(f"{bystander.pid}\n")
        site.host.converge(Plan())
        assert bystander.poll() is None
        bystander.kill()
    os.kill(int(ours), signal.SIGKILL)


# --- the disk ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one block less than nothing much."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_disk_full(site, small_disk):
    """The old options stay, and one line says what to do; with room again it heals."""
    places = Places(state=small_disk / "state")
    try:
        site.host.converge(site.plan(), places)
        options = places.state / site.dhcp / "hosts"
        before = options.read_text()
        wanted = site.plan(address="172.17.17.6")
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as stream:
            while True:
                stream.write(b"x" * 4096)
                stream.flush()
        report = converge(wanted, places)
        assert len(report.problems) == 1
        assert report.problems[0].startswith(f"{site.dhcp}: ")
        assert report.problems[0].endswith("make room on the disk; the last plan stays in force")
        assert options.read_text() == before
        assert not [path for path in options.parent.iterdir() if path.name.startswith(".")]
        filler.unlink()
        site.host.converge(wanted, places)
        assert options.read_text() != before
    finally:
        converge(Plan(), places)


def test_a_file_keeps_its_owner_and_mode(tmp_path):
    path = tmp_path / "opts"
    path.write_text("old")
    path.chmod(0o640)
    os.chown(path, 65534, 65534)
    write(path, "new")
    found = path.stat()
    assert (path.read_text(), found.st_mode & 0o777, found.st_uid, found.st_gid) == (
        "new",
        0o640,
        65534,
        65534,
    )


# --- beside Neutron ---------------------------------------------------------------------


class Neutron:
    """What its agents make: a namespace for DHCP with a device, one for a router, and dnsmasq's files."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.network, self.router = str(uuid.uuid4()), str(uuid.uuid4())
        self.port = Port(
            str(uuid.uuid4()),
            self.network,
            "fa:16:3e:00:00:01",
            "dhcp",
            "network:dhcp",
            "",
            (("10.0.0.2", SUBNET),),
        )
        self.tap = f"tap{self.port.id[:11]}"
        self.bridge = host.bridge()
        self.dhcp = host.namespace(f"qdhcp-{self.network}")
        self.space = host.namespace(f"qrouter-{self.router}")
        host.cable(self.dhcp, self.tap, self.bridge, self.port.mac)
        ip(self.dhcp, f"link set {self.tap} up")
        ip(self.dhcp, f"addr add 10.0.0.2/24 dev {self.tap}")
        directory = host.directory / "dhcp" / self.network
        directory.mkdir(parents=True)
        self.options = directory / "opts"
        self.options.write_text(f"tag:subnet-{SUBNET},option:router,10.0.0.1\n")
        host.places = dataclasses.replace(host.places, neutron_dhcp=host.directory / "dhcp")

    def plan(self, *, ipv6=False, **options) -> Plan:
        subnets = [SubnetView(SUBNET, self.network, "10.0.0.0/24", gateway_ip="10.0.0.1")]
        if ipv6:
            subnets.append(SubnetView(str(uuid.uuid4()), self.network, "fd00:a::/64"))
        view = NodeView(
            (self.network,),
            tuple(subnets),
            (self.port,),
            (RouterView(self.router),),
            frozenset({self.port.id}),
        )
        return plan(view, Options(**ISOLATED | options))


@pytest.fixture
def neutron():
    with made() as host:
        yield Neutron(host)


def addresses(space, version=4):
    return [line.split()[3] for line in ip(space, f"-{version} -o addr").splitlines() if " lo " not in line]


def test_beside_neutron_ours_is_added_and_taken_away_again(neutron):
    """P-5: and what Neutron made is as it was, to the letter."""
    before = [shown(neutron.dhcp), shown(neutron.space), neutron.options.read_text()]
    neutron.host.converge(neutron.plan())
    assert addresses(neutron.dhcp) == ["10.0.0.2/24", "169.254.169.254/32"]
    assert "redirect to :9697" in inside(neutron.space, "nft", "list", "ruleset")
    assert "option:classless-static-route,169.254.169.254/32,10.0.0.2" in neutron.options.read_text()
    assert neutron.host.converge(neutron.plan()).actions == ()
    off = neutron.plan(enable_isolated_metadata=False)
    neutron.host.converge(dataclasses.replace(off, routers=()))
    inside(neutron.dhcp, "sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=0")
    assert [shown(neutron.dhcp), shown(neutron.space), neutron.options.read_text()] == before


@contextlib.contextmanager
def dnsmasq_of_neutron(neutron):
    """What passes for it; whether it was told to read its files, exactly once."""
    hangups = neutron.host.directory / "hangups"
    script = f"trap 'echo 1 >>{hangups}' HUP; echo; while :; do read -t 1 x; done # {neutron.options.parent}/"
    with subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as theirs:
        theirs.stdout.readline()
        (neutron.options.parent / "pid").write_text(f"{theirs.pid}\n")
        yield lambda: hangups.exists() and hangups.read_text() == "1\n"
        theirs.kill()


def test_beside_neutron_a_rewritten_options_file_gets_our_route_again(neutron):
    """Its agent writes it at each change; its dnsmasq is told once, and by nobody else."""
    neutron.host.converge(neutron.plan())
    with dnsmasq_of_neutron(neutron) as told:
        neutron.options.write_text(f"tag:subnet-{SUBNET},option:router,10.0.0.1\n")
        done = neutron.host.converge(neutron.plan()).actions
        assert [type(action) for action in done] == [WriteMarker, WriteFile, ReloadProgram, WriteMarker]
        until(told)
        assert neutron.host.converge(neutron.plan()).actions == ()


def test_beside_neutron_a_network_that_is_gone_takes_our_route_with_it(neutron):
    """The DHCP port went to another node, or mdmw goes: its dnsmasq is told, and nothing is remembered."""
    before = neutron.options.read_text()
    neutron.host.converge(neutron.plan())
    assert neutron.options.read_text() != before
    with dnsmasq_of_neutron(neutron) as told:
        done = neutron.host.converge(Plan()).actions
        assert {WriteFile, ReloadProgram} <= {type(action) for action in done}
        until(told)
    assert neutron.options.read_text() == before
    assert [path.name for path in neutron.host.places.state.iterdir()] == ["lock"]
    assert neutron.host.converge(Plan()).actions == ()


def test_beside_neutron_a_network_whose_files_are_gone_too(neutron):
    """Its agent was here first."""
    neutron.host.converge(neutron.plan())
    subprocess.run(["ip", "netns", "delete", neutron.dhcp], check=True)
    shutil.rmtree(neutron.options.parent)
    neutron.host.converge(Plan())
    assert not neutron.options.parent.exists()
    assert [path.name for path in neutron.host.places.state.iterdir()] == ["lock"]


def test_beside_neutron_a_namespace_that_is_not_there_yet(neutron):
    """It is waited for, with a line; the others go on."""
    subprocess.run(["ip", "netns", "delete", neutron.dhcp], check=True)
    report = converge(neutron.plan(), neutron.host.places)
    assert report.problems == (f"{neutron.dhcp}: the namespace does not exist yet; Neutron's agent makes it",)
    assert "redirect" in inside(neutron.space, "nft", "list", "ruleset")


def test_4_8_two_nodes_and_one_ipv6_metadata_address(neutron, caplog):
    """Spec 4.8, LP#1953165: the second node loses duplicate address detection; IPv4 is not lost."""
    caplog.set_level(logging.INFO)
    first = neutron.host.guest(neutron.bridge, "fa:16:3e:00:00:0a")
    ip(first, f"addr add {V6} dev eth0 nodad")
    wanted = neutron.plan(ipv6=True)
    reports = [neutron.host.converge(wanted)]
    assert reports[0].waiting == {neutron.dhcp}

    def decided():
        reports.append(neutron.host.converge(wanted))
        return not reports[-1].waiting

    until(decided)
    assert reports[-1].without_ipv6 == {neutron.dhcp}
    removals = [a for report in reports for a in report.actions if isinstance(a, RemoveAddress)]
    assert [(a.address, a.duplicate) for a in removals] == [(V6, True)]
    assert any("another node" in record.message and record.levelname == "INFO" for record in caplog.records)
    assert addresses(neutron.dhcp) == ["10.0.0.2/24", "169.254.169.254/32"]
    assert V6 not in addresses(neutron.dhcp, 6)
    assert neutron.host.converge(wanted).actions == ()


_WITHOUT = """
set -e
nsenter --net=/run/netns/$1 mount -t tmpfs none /proc/sys/net/ipv4
shift
exec nsenter "$@"
"""


@pytest.mark.parametrize("has_its_own", [True, False])
def test_p_3_nonlocal_bind(neutron, has_its_own):
    """P-3: set in the namespace; in that of the host where kernels before 3.19 have one for all."""
    outside = neutron.host.namespace(neutron.host.name("h"))
    name = "/proc/sys/net/ipv4/ip_nonlocal_bind"
    inside(neutron.dhcp, "sh", "-c", f"echo 0 >{name}")
    rest = [f"--net=/run/netns/{outside}", sys.executable, "-c", CONVERGE, str(neutron.host.places.state)]
    words = ["nsenter", *rest]
    if not has_its_own:
        words = ["unshare", "--mount", "sh", "-c", _WITHOUT, "sh", neutron.dhcp, *rest]
    for _ in range(2):
        done = subprocess.run(words, input=dumps(neutron.plan()), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ready\n()\n"  # the second run has nothing to do
    values = [inside(space, "cat", name).strip() for space in (neutron.dhcp, outside)]
    assert values == (["1", "0"] if has_its_own else ["0", "1"])


def test_p_2_ipv6_metadata_address(neutron):
    """P-2: there, and ready, if nobody else has it."""
    wanted = neutron.plan(ipv6=True)
    until(lambda: not neutron.host.converge(wanted).waiting)
    assert V6 in addresses(neutron.dhcp, 6)
    line = next(line for line in ip(neutron.dhcp, "-6 -o addr").splitlines() if V6 in line)
    assert "tentative" not in line


def test_a_namespace_of_somebody_else_is_not_ours(site):
    """In the file mode: it is said, and left alone."""
    wanted = site.plan()
    site.host.namespace(site.dhcp)
    before = shown(site.dhcp)
    report = converge(wanted, site.places)
    assert [problem for problem in report.problems if site.dhcp in problem] == list(report.problems) != []
    assert shown(site.dhcp) == before
    site.host.converge(Plan())
    assert shown(site.dhcp) == before


def test_dnsmasq_that_does_not_start_is_said(site):
    wanted = site.plan()
    server = dataclasses.replace(wanted.dhcp[0].server, ranges=("nonsense",))
    broken = dataclasses.replace(wanted, dhcp=(dataclasses.replace(wanted.dhcp[0], server=server),))
    report = converge(broken, site.places)
    assert len(report.problems) == 1
    assert "start dnsmasq: dnsmasq does not start: " in report.problems[0]
    assert any(isinstance(action, StartProgram) for action in site.host.converge(wanted).actions)


def test_without_nft_it_is_said_what_to_install(neutron, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"/nowhere-{secrets.token_hex(3)}")
        report = converge(neutron.plan(), neutron.host.places)
    assert report.problems == (
        f"qrouter-{neutron.router}: set the rules (nftables): nft is not installed; install nftables",
    )
