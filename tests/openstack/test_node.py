"""mdmw-node and the real Neutron: beside its agents, and instead of their metadata part."""

import contextlib
import json
import os
import signal
import time
import uuid
from pathlib import Path

import pytest
from cloud import node
from cloud.guests import ask
from cloud.proxies import listens
from cloud.seed import Network, Port, create_port
from cloud.settings import NOVA_PORT, credentials
from cloud.topology import METADATA_V4, METADATA_V6, ROUTER_PORT, configure, dhcp_device, namespace
from node.kvm_host import Host, inside, route_to

from mdmw.node.namespaces import CommandError

META_DATA = "/openstack/latest/meta_data.json"
WITHIN = 20.0
CIDR, DHCP_ADDRESS, GATEWAY, GUEST = "10.0.0.0/24", "10.0.0.2", "10.0.0.1", "10.0.0.10"


def eventually(holds):
    """Wait for what others do by themselves; a look now and then, since nobody tells."""
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # between two looks


# --- beside Neutron's agents ------------------------------------------------------------

NETWORK, ROUTER = str(uuid.uuid4()), str(uuid.uuid4())
DEVICE = f"tap{NETWORK[:11]}"


@pytest.fixture(scope="module")
def agents(cloud):
    """Neutron's agents, with the namespaces of a network and of a router."""
    qdhcp = f"qdhcp-{NETWORK}"
    with namespace(qdhcp), namespace(f"qrouter-{ROUTER}"), node.beside_neutron(cloud) as agents:
        configure(
            qdhcp,
            f"link add {DEVICE} type veth peer name guest",
            f"link set {DEVICE} up",
            "link set guest up",
            f"address add {METADATA_V4}/32 dev {DEVICE}",
            f"address add {METADATA_V6}/64 dev {DEVICE}",
        )
        yield agents


@pytest.mark.parametrize(
    ("scope", "space", "port"),
    [
        (f"network={NETWORK}={DEVICE}", f"qdhcp-{NETWORK}", 80),
        (f"router={ROUTER}", f"qrouter-{ROUTER}", ROUTER_PORT),
    ],
    ids=["network", "router"],
)
def test_p_11_p_12_p_13_neutron_starts_watches_and_stops(cloud, agents, scope, space, port):
    """P-10 to P-13: by Neutron's driver, process manager and process monitor, which starts it again."""
    first = agents.spawn(scope)
    identity = scope.split("=")[1]
    assert first.pid_file == f"{cloud.state.run}/neutron/external/pids/{identity}.pid.haproxy"
    assert int(Path(first.pid_file).read_text()) == first.pid
    assert Path(f"/proc/{first.pid}/exe").resolve().name == "sleep"
    assert Path(f"/proc/{first.pid}").owner() == node.USER
    assert listens(space, port)
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: agents.look(scope).pid != first.pid and agents.look(scope).active)
    assert listens(space, port)
    gone = agents.destroy(scope)
    assert (gone.active, gone.pid) == (False, None)
    assert not Path(first.pid_file).exists()
    eventually(lambda: not listens(space, port))


def test_p_13_neutron_changes_its_mind(agents):
    """P-13: the driver ends a proxy whose configuration is another now, and starts the next at once."""
    before = agents.spawn(f"network={NETWORK}={DEVICE}")
    after = agents.spawn(f"network={NETWORK}")
    assert after.pid != before.pid
    assert listens(f"qdhcp-{NETWORK}", 80)
    agents.destroy(f"network={NETWORK}")
    eventually(lambda: not listens(f"qdhcp-{NETWORK}", 80))


# --- instead of their metadata part -----------------------------------------------------

HOST = "mdmw-node-test"
_COMBINED = """
[pipeline:combined]
pipeline = identify resolve sign to-nova
[filter:identify]
use = egg:mdmw#source-identify
mode = listener
client_mac = true
[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = neutron
config_file = {file}
[filter:sign]
use = egg:mdmw#hmac-sign
config_file = {file}
[app:to-nova]
use = egg:mdmw#nova-forward
config_file = {file}
"""
_OPTIONS = """
[DEFAULT]
host = {host}
enable_isolated_metadata = true
dhcp_confs = {dhcp}
node_state_path = {state}
nova_metadata_host = 127.0.0.1
nova_metadata_port = {nova_port}
metadata_proxy_shared_secret = {shared}
[neutron]
{credentials}
"""
# A host on which there are only these namespaces: those of the other tests are not its own.
_ONLY = """
set -e
for name in $2; do touch "$1/$name"; mount --bind "/run/netns/$name" "$1/$name"; done
mount --rbind "$1" /run/netns
shift 2
exec "$@"
"""


def network(api, project, gateway):
    """Neutron's part of a network with DHCP on our host, and of a router if it has a gateway."""
    own = {"project_id": project}
    made = api.neutron("POST", "/networks", network=own | {"name": "node"})["network"]["id"]
    own["network_id"] = made
    described = own | {"ip_version": 4, "cidr": CIDR, "gateway_ip": gateway}
    subnet = api.neutron("POST", "/subnets", subnet=described)["subnet"]["id"]
    ipv6 = {"ip_version": 6, "cidr": "fd00:b::/64", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    api.neutron("POST", "/subnets", subnet=own | ipv6)
    fixed = [{"subnet_id": subnet, "ip_address": DHCP_ADDRESS}]
    described = {"device_id": f"dhcp-{made}", "device_owner": "network:dhcp", "binding:host_id": HOST}
    dhcp = api.neutron("POST", "/ports", port=own | described | {"fixed_ips": fixed})["port"]
    router, interfaces = "", []
    if gateway:
        described = {"project_id": project, "name": "node"}
        router = api.neutron("POST", "/routers", router=described)["router"]["id"]
        api.neutron("PUT", f"/routers/{router}/add_router_interface", subnet_id=subnet)
        interfaces = api.neutron("GET", f"/ports?device_id={router}")["ports"]
    return Network(made, project, subnet, router, Port.of(dhcp), tuple(map(Port.of, interfaces)))


def remove(api, made):
    """Take it away again."""
    if made.router_id:
        path = f"/routers/{made.router_id}"
        api.neutron("PUT", f"{path}/remove_router_interface", subnet_id=made.ipv4_subnet_id)
        api.neutron("DELETE", path)
    for port in api.neutron("GET", f"/ports?network_id={made.id}")["ports"]:
        api.neutron("DELETE", f"/ports/{port['id']}")
    api.neutron("DELETE", f"/networks/{made.id}")


def cable(space, device, port, address, guest, mac):
    """A device of Neutron's agents, and the guest at its other end."""
    link = f"link add {device} address {port.mac} type veth"
    configure(
        space,
        f"{link} peer name eth0 address {mac} netns {guest}",
        f"link set {device} up",
        f"address add {address}/24 dev {device}",
    )
    configure(guest, "link set eth0 up")


def dnsmasq(cloud, made, directory, guest):
    """Neutron's own, as the DHCP agent starts it."""
    directory.mkdir(parents=True)
    (directory / "host").write_text(f"{guest.mac},host-10-0-0-10,{GUEST}\n")
    (directory / "opts").write_text(f"tag:subnet-{made.ipv4_subnet_id},option:router\n")  # no gateway
    command = [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"),
        *("--user=root", "--bind-interfaces", f"--interface={dhcp_device(made)}", "--except-interface=lo"),
        *("--port=0", f"--pid-file={directory}/pid", f"--dhcp-hostsfile={directory}/host"),
        *(f"--dhcp-optsfile={directory}/opts", f"--dhcp-leasefile={directory}/leases"),
        f"--dhcp-range=set:subnet-{made.ipv4_subnet_id},10.0.0.0,static,255.255.255.0,86400s",
    ]
    ready = (directory / "pid").exists
    return cloud.services.serve("dnsmasq", command, ready, namespace=f"qdhcp-{made.id}")


@pytest.fixture(scope="module")
def site(cloud):
    """Namespaces as Neutron's agents make them without metadata, guests there, and mdmw-node."""
    project = cloud.seed.instances["c"].project_id
    with contextlib.ExitStack() as stack:
        isolated, routed = (network(cloud.api, project, gateway) for gateway in (None, GATEWAY))
        for made in (isolated, routed):
            stack.callback(remove, cloud.api, made)
        c = create_port(cloud.api, isolated, cloud.seed.instances["c"].id, GUEST)
        d = create_port(cloud.api, routed, cloud.seed.instances["d"].id, GUEST)
        spaces = f"qdhcp-{isolated.id}", f"qrouter-{routed.router_id}"
        guests = "mdmw-node-c", "mdmw-node-d"
        for space in (*spaces, *guests):
            stack.enter_context(namespace(space))
        cable(spaces[0], dhcp_device(isolated), isolated.dhcp, DHCP_ADDRESS, guests[0], c.mac)
        (interface,) = routed.interfaces
        cable(spaces[1], f"qr-{interface.id[:11]}", interface, GATEWAY, guests[1], d.mac)
        configure(guests[1], f"address add {GUEST}/24 dev eth0", f"route add default via {GATEWAY}")
        directory = cloud.state.run / "instead"
        stack.enter_context(dnsmasq(cloud, isolated, directory / "dhcp" / isolated.id, c))
        (directory / "netns").mkdir()
        options = directory / "node.ini"
        options.touch(mode=0o600)
        text = _OPTIONS.format(
            host=HOST,
            dhcp=directory / "dhcp",
            state=directory / "state",
            nova_port=NOVA_PORT,
            shared=cloud.secrets.shared,
            credentials=credentials("nova", cloud.secrets.nova),
        )
        options.write_text(text)
        alone = ("sh", "-c", _ONLY, "sh", str(directory / "netns"), " ".join(spaces))
        ini = _COMBINED.format(file=options)
        words = (f"--config-file={options}", "--poll-interval=1", "--look-interval=1")
        stack.enter_context(node.serving(cloud, "combined", ini, *words, prefix=alone))
        yield Site(directory, isolated, routed, *spaces, *guests)


class Site:
    """What is on the host: the namespaces of the isolated network, of the router, and of their guests."""

    def __init__(self, directory, isolated, routed, qdhcp, qrouter, dhcp_guest, router_guest):
        self.directory = directory
        self.isolated, self.routed = isolated, routed
        self.qdhcp, self.qrouter = qdhcp, qrouter
        self.dhcp_guest, self.router_guest = dhcp_guest, router_guest


def identity(reply):
    """Who Nova thinks is asking."""
    assert reply.status == 200, reply.body
    document = json.loads(reply.body)
    return document["uuid"], document["project_id"]


def test_4_3_4_4_4_5_an_isolated_network(cloud, site, tmp_path):
    """4.3, 4.4, 4.5, seed 004: addresses, listeners, the route by Neutron's dnsmasq; the guest is itself."""
    options = site.directory / "dhcp" / site.isolated.id / "opts"
    eventually(lambda: f"{METADATA_V4}/32,{DHCP_ADDRESS}" in options.read_text())
    eventually(lambda: listens(site.qdhcp, 80))
    shown = inside(site.qdhcp, "ip", "address", "show", "dev", dhcp_device(site.isolated))
    assert f"{METADATA_V4}/32" in shown
    assert METADATA_V6 in shown
    with contextlib.ExitStack() as stack:
        Host(tmp_path, stack).lease(site.dhcp_guest, "udhcpc")
    assert route_to(site.dhcp_guest) == DHCP_ADDRESS
    own = cloud.seed.instances["c"]
    for version in (4, 6):
        assert identity(ask(site.dhcp_guest, META_DATA, version=version)) == (own.id, own.project_id)


def test_4_6_4_7_a_router(cloud, site):
    """4.6, 4.7: the rules and the listener of a router; the guest is itself, and cannot reach the port."""
    eventually(lambda: listens(site.qrouter, ROUTER_PORT))
    own = cloud.seed.instances["d"]
    assert identity(ask(site.router_guest, META_DATA)) == (own.id, own.project_id)
    assert "table inet mdmw" in inside(site.qrouter, "nft", "list", "ruleset")
    with pytest.raises(CommandError, match="timed out"):
        inside(site.router_guest, "curl", "-sS", "-m", "1", f"http://{GATEWAY}:{ROUTER_PORT}{META_DATA}")
