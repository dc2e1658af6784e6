"""P-8: the route that radvd announces, and its life."""

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kvm_host import Host, ask, inside, ip, made, obstacle

from mdmw.node.plan import Plan, RouterPlan

pytestmark = pytest.mark.skipif(bool(obstacle("radvd")), reason=f"needs root and: {obstacle('radvd')}")

URL = "http://[fe80::a9fe:a9fe%25eth0]/openstack/latest/meta_data.json"
MAC, GUEST = "fa:16:3e:5b:40:05", str(uuid.uuid4())
_WITHIN = 10.0


@pytest.fixture
def host() -> Iterator[Host]:
    with made() as one:
        yield one


def routed(host: Host, bridge: str) -> Plan:
    """A network whose IPv6 gateway is a router, and a guest."""
    network, subnet = str(uuid.uuid4()), str(uuid.uuid4())
    described = {"id": subnet, "cidr": "fd00:a::/64", "gateway_ip": "fd00:a::1", "ipv6_address_mode": "slaac"}
    port = {"id": str(uuid.uuid4()), "network": network, "mac": MAC, "addresses": ["fd00:a::5"]}
    content = {
        "networks": [{"id": network, "bridge": bridge, "subnets": [described]}],
        "routers": [{"id": str(uuid.uuid4()), "interfaces": [{"subnet": subnet}]}],
        "instances": [{"id": GUEST, "project_id": "p", "name": "g", "ports": [port]}],
    }
    return host.plan(json.dumps(content))


def command(host: Host, router: RouterPlan) -> str:
    """Of the process that the pid file names."""
    pid = (host.places.state / router.namespace / "pid").read_text().strip()
    return Path(f"/proc/{pid}/cmdline").read_text() if Path(f"/proc/{pid}").exists() else ""


def test_p_8_a_guest_gets_the_route_and_its_answer(host: Host) -> None:
    """P-8: through the router, whose listener knows it; nothing but the router serves this network."""
    bridge = host.bridge()
    wanted = routed(host, bridge)
    host.converge(wanted)
    [router] = wanted.routers
    assert [listener.scope.kind for listener in router.listeners] == ["router"]
    assert wanted.dhcp[0].listeners == ()
    [wire] = router.wires
    until(lambda: "fe80::" in ip(router.namespace, f"-6 addr show -tentative dev {wire.device}"))
    with host.serving(wanted):
        guest = host.guest(bridge, MAC)
        inside(guest, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=128")
        until(lambda: ip(guest, "-6 route show fe80::a9fe:a9fe") != "")
        found = ip(guest, "-6 route show fe80::a9fe:a9fe")
        assert found.startswith("fe80::a9fe:a9fe via fe80::")
        assert "proto ra" in found
        assert json.loads(ask(guest, URL))["uuid"] == GUEST
        until(lambda: "via fe80::" in ip(guest, "-6 route show default"))
        until(lambda: "fd00:a::" in ip(guest, "-6 addr show dev eth0"))


def test_radvd_lives_as_long_as_its_router(host: Host) -> None:
    """Started once, again when it was killed, and gone with the router; a kill in between hurts nobody."""
    wanted = routed(host, host.bridge())
    host.converge(wanted)
    [router] = wanted.routers
    assert command(host, router).startswith("radvd\0")
    assert host.converge(wanted).actions == ()
    pid = int((host.places.state / router.namespace / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    until(lambda: command(host, router) == "")
    assert [str(action) for action in host.converge(wanted).actions] == [f"{router.namespace}: start radvd"]
    last = int((host.places.state / router.namespace / "pid").read_text())
    host.converge(Plan())
    until(lambda: not Path(f"/proc/{last}/exe").exists())
    assert [path.name for path in host.places.state.iterdir()] == ["lock"]


def until(holds: Callable[[], bool]) -> None:
    """For what the kernel and radvd do by themselves; a look now and then, since nobody tells."""
    deadline = time.monotonic() + _WITHIN
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
