"""P-8: the route that radvd announces, with a real one in the namespace of a router."""

import contextlib
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
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


@contextlib.contextmanager
def radvd(router: RouterPlan, directory: Path) -> Iterator[None]:
    """With what the plan says of its devices, and nothing else."""
    file = directory / "radvd.conf"
    parts = [f"interface {device} {{ AdvSendAdvert on; {route} }};" for device, route in router.ra_routes]
    file.write_text("\n".join([*parts, ""]))
    program = shutil.which("radvd") or ""
    inside(router.namespace, program, "--configtest", "-C", str(file))
    words = [program, "-n", "-m", "stderr", "-C", str(file), "-p", str(directory / "radvd.pid")]
    command = ["ip", "netns", "exec", router.namespace, *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def test_p_8_a_guest_gets_the_route_and_its_answer(host: Host) -> None:
    """P-8: through the router, whose listener knows it; nothing but the router serves this network."""
    bridge = host.bridge()
    wanted = routed(host, bridge)
    host.converge(wanted)
    [router] = wanted.routers
    assert [listener.scope.kind for listener in router.listeners] == ["router"]
    assert wanted.dhcp[0].listeners == ()
    with radvd(router, host.directory), host.serving(wanted):
        guest = host.guest(bridge, MAC)
        inside(guest, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=128")
        deadline = time.monotonic() + _WITHIN
        while not (found := ip(guest, "-6 route show fe80::a9fe:a9fe")):
            assert time.monotonic() < deadline
            time.sleep(0.05)  # nobody tells when an advertisement came
        assert found.startswith("fe80::a9fe:a9fe via fe80::")
        assert "proto ra" in found
        assert json.loads(ask(guest, URL))["uuid"] == GUEST
