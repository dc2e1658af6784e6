"""Guests with IPv6 and nothing else, on a host without OpenStack: an address, and then an answer.

One daemon with a network for each way to an address, and one behind a router; the guests have the kernel's
autoconfiguration, and dhclient where addresses are given out.
"""

import dataclasses
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from daemon import Site, site
from kvm_host import Host, ask, inside, ip, made, obstacle

MISSING = obstacle("dhclient", "radvd")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs root and: {MISSING}")

URL = "http://[fe80::a9fe:a9fe%25eth0]/openstack/latest/meta_data.json"
NAME_SERVER = "2001:db8::53"
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
# What Debian's dhclient-script does with an IPv6 lease, without touching resolv.conf.
_DHCLIENT = """#!/bin/sh
[ "$reason" = BOUND6 ] && ip -6 addr add "$new_ip6_address/$new_ip6_prefixlen" dev "$interface" nodad
exit 0
"""


@dataclasses.dataclass
class Network:
    """One subnet with one guest, which gets its address in the way that `mode` says."""

    mode: str | None
    number: int
    bridge: str
    router: str = ""
    subnet: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    guest: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def mac(self) -> str:
        return f"fa:16:3e:5b:30:{self.number:02x}"

    @property
    def address(self) -> str:
        """The one that the guest makes of its MAC, or any other where it is given one."""
        own = f"f816:3eff:fe5b:30{self.number:02x}"
        return f"fd00:{self.number}::5" if self.gives_addresses else f"fd00:{self.number}::{own}"

    @property
    def gives_addresses(self) -> bool:
        return self.mode in (None, "dhcpv6-stateful")

    def described(self) -> dict[str, Any]:
        subnet = {
            "id": self.subnet,
            "cidr": f"fd00:{self.number}::/64",
            "dns_nameservers": [NAME_SERVER],
            "ipv6_address_mode": self.mode,
            "gateway_ip": f"fd00:{self.number}::1" if self.router else None,
        }
        return {"id": self.id, "bridge": self.bridge, "subnets": [subnet]}

    def instance(self) -> dict[str, Any]:
        port = {"id": str(uuid.uuid4()), "network": self.id, "mac": self.mac, "addresses": [self.address]}
        return {"id": self.guest, "project_id": "p", "name": f"g{self.number}", "ports": [port]}


MODES = ["slaac", "dhcpv6-stateless", "dhcpv6-stateful", None]
ROUTED = "behind a router"


@dataclasses.dataclass
class Kvm:
    """A host with a daemon that serves these networks."""

    host: Host
    place: Site
    networks: dict[str | None, Network]


@pytest.fixture(scope="module")
def kvm() -> Iterator[Kvm]:
    with made() as host, site() as place:
        networks = {mode: Network(mode, number, host.bridge()) for number, mode in enumerate(MODES, 1)}
        routed = networks[ROUTED] = Network("slaac", 9, host.bridge(), str(uuid.uuid4()))
        inventory = host.directory / "inventory.yaml"
        content = {
            "networks": [network.described() for network in networks.values()],
            "routers": [{"id": routed.router, "interfaces": [{"subnet": routed.subnet}]}],
            "instances": [network.instance() for network in networks.values()],
        }
        inventory.write_text(json.dumps(content))
        place.ini.write_text(_INI.format(inventory=inventory, directory=host.directory))
        state = f"node_state_path={host.places.state}"
        place.started("--pipeline", "standalone", "--file", str(inventory), "--set", state)
        place.until(lambda: len(place.listeners()) == 2 * len(MODES) + 1)
        yield Kvm(host, place, networks)


@pytest.mark.parametrize("mode", MODES)
def test_p_2_from_a_file_to_an_answer_over_ipv6(kvm: Kvm, mode: str | None) -> None:
    """P-2, 4.7: its address as the file says, no IPv4 and no way out, and its own uuid."""
    network = kvm.networks[mode]
    guest = kvm.host.guest(network.bridge, network.mac)
    kvm.place.until(lambda: "proto kernel" in ip(guest, f"-6 route show fd00:{network.number}::/64"))
    if network.gives_addresses:
        lease(kvm, guest)
    kvm.place.until(lambda: network.address in ready(guest))
    assert len(ready(guest)) == 1
    assert ip(guest, "-6 route show default") == ""
    assert ip(guest, "-4 -br addr show eth0").split()[2:] == []
    assert json.loads(ask(guest, URL))["uuid"] == network.guest


def test_p_8_behind_a_router_of_the_file(kvm: Kvm) -> None:
    """P-8, 4.7: an address by dnsmasq, the way out and that to the metadata address by radvd."""
    network = kvm.networks[ROUTED]
    space = f"qrouter-{network.router}"
    kvm.place.until(lambda: "fe80::" in ip(space, "-6 addr show -tentative"))
    guest = kvm.host.guest(network.bridge, network.mac)
    inside(guest, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=128")
    kvm.place.until(lambda: "via fe80::" in ip(guest, "-6 route show fe80::a9fe:a9fe"))
    assert "via fe80::" in ip(guest, "-6 route show default")
    kvm.place.until(lambda: network.address in ready(guest))
    assert json.loads(ask(guest, URL))["uuid"] == network.guest


def ready(guest: str) -> list[str]:
    """The addresses of a guest beyond its link that are in use."""
    lines = ip(guest, "-6 -o addr show dev eth0 scope global -tentative").splitlines()
    return [line.split()[3].partition("/")[0] for line in lines]


def lease(kvm: Kvm, guest: str) -> None:
    directory = kvm.host.directory
    script = directory / "dhclient-script"
    script.write_text(_DHCLIENT)
    script.chmod(0o755)
    kvm.place.until(lambda: "fe80::" in ip(guest, "-6 addr show dev eth0 -tentative"))
    pid_file = directory / f"{guest}.pid"
    words = f"dhclient -6 -1 -sf {script} -pf {pid_file} -lf {directory / guest}.leases eth0"
    inside(guest, *words.split())
    kvm.host.ends_with_it(pid_file)
