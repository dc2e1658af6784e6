"""The whole system on a host without Neutron: real dnsmasq, real DHCP clients, real packets (spec 4.3).

Each row of the matrix of 4.3: the guest's route is what the table says, and curl gets the guest's
own uuid, or nothing.
"""

import concurrent.futures
import dataclasses
import json
import uuid

import pytest
from kvm_host import ask, host_routes, inside, ip, made, route_to, without_clients

from mdmw.node.namespaces import CommandError, run
from mdmw.node.plan import Options, plan
from mdmw.node.view import RouterView

pytestmark = pytest.mark.skipif(bool(without_clients()), reason=f"needs root and: {without_clients()}")

NET, NET_2 = str(uuid.uuid4()), str(uuid.uuid4())  # names of namespaces are the host's
SUBNET, SUBNET_2 = "a507c135-12b9-419c-ab43-ecaa7ca57f83", "35a1f6e8-94c2-4d7b-a0e3-2c8b7f5d9160"
ROUTER = str(uuid.uuid4())
UUIDS = ["7c52af88-d14b-45ae-87cf-be154d8c8638", "d0386b9e-41f7-4c25-b8ae-7f5c92e1d604"]
MACS = ["fa:16:3e:5b:10:05", "fa:16:3e:5b:10:06"]
CLIENTS = ["udhcpc", "dhclient"]
ROUTE = "169.254.169.254"


@pytest.fixture
def host():
    with made() as one:
        yield one


def text(networks, guests, routed=()):
    """An inventory of (network, bridge, [(subnet, cidr, gateway)]), (network, address) and subnets."""
    out = ["networks:"]
    for network, bridge, subnets in networks:
        out += [f"  - id: {network}", f"    bridge: {bridge}", "    subnets:"]
        for subnet, cidr, gateway in subnets:
            out += [f"      - {{id: {subnet}, cidr: {cidr}, gateway_ip: {gateway or 'null'}}}"]
    if routed:
        out += ["routers:", f"  - id: {ROUTER}", "    interfaces:"]
        out += [f"      - subnet: {subnet}" for subnet in routed]
    out.append("instances:")
    for number, (network, address) in enumerate(guests):
        out += [f"  - id: {UUIDS[number]}", "    project_id: p", f"    name: g{number}", "    ports:"]
        port = f"a3f04c61-8e2d-47b9-95d0-c6e71b8f2a4{number}"
        out += [f"      - {{id: {port}, network: {network}, mac: '{MACS[number]}', addresses: [{address}]}}"]
    return "\n".join(out) + "\n"


def boot(host, *bridges):
    """A guest on each bridge, one with udhcpc and one with dhclient, each with a lease."""
    spaces = [host.guest(bridge, MACS[number]) for number, bridge in enumerate(bridges)]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        list(threads.map(host.lease, spaces, CLIENTS))
    return spaces


def uuid(space):
    return json.loads(ask(space))["uuid"]


def two_guests(host, subnet, guests, routed=(), **options):
    """One network with two guests: the plan is in force, and they have their leases."""
    bridge = host.bridge()
    inventory = text([(NET, bridge, [subnet])], [(NET, address) for address in guests], routed)
    wanted = host.plan(inventory, **options)
    host.converge(wanted)
    return wanted, boot(host, bridge, bridge)


WITH_GATEWAY = (SUBNET, "192.168.1.0/24", "192.168.1.1")
GUESTS = ("192.168.1.11", "192.168.1.12")


@pytest.mark.parametrize(
    ("options", "routed", "hop", "served"),
    [
        pytest.param({}, True, "192.168.1.1", True, id="router"),
        pytest.param({}, False, None, False, id="nobody"),
        pytest.param({"enable_isolated_metadata": True}, True, "192.168.1.1", True, id="isolated-but-router"),
        pytest.param({"enable_isolated_metadata": True}, False, "192.168.1.2", True, id="isolated"),
        pytest.param({"force_metadata": True}, True, "192.168.1.2", True, id="force-wins"),
        pytest.param({"enable_metadata_proxy": False}, True, "192.168.1.1", False, id="dropped"),
    ],
)
def test_4_3_one_network(host, options, routed, hop, served):
    """Spec 4.3: rows 1, 2, 3, 4, 6 and 7 of the matrix, with both clients."""
    wanted, spaces = two_guests(host, WITH_GATEWAY, GUESTS, (SUBNET,) if routed else (), **options)
    with host.serving(wanted):
        for space, expected in zip(spaces, UUIDS, strict=True):
            assert host_routes(space).get(ROUTE) == hop
            if served:
                assert uuid(space) == expected
            else:
                with pytest.raises(CommandError):
                    ask(space)


def test_4_3_mixed_subnets(host):
    """Spec 4.3, row 5: per subnet, and both serve."""
    bridge = host.bridge()
    subnets = [(SUBNET, "192.168.1.0/24", "192.168.1.1"), (SUBNET_2, "10.9.0.0/24", None)]
    guests = [(NET, "192.168.1.11"), (NET, "10.9.0.12")]
    options = {"enable_isolated_metadata": True}
    wanted = host.plan(text([(NET, bridge, subnets)], guests, (SUBNET,)), **options)
    host.converge(wanted)
    routed, alone = boot(host, bridge, bridge)
    with host.serving(wanted):
        assert (route_to(routed), route_to(alone)) == ("192.168.1.1", "10.9.0.1")
        assert [uuid(routed), uuid(alone)] == UUIDS


# What the L3 agent does in every router since 2021, with the proxy off too.
_L3_AGENT = """
*mangle
-A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffff
COMMIT
*filter
:neutron-l3-agent-scope - [0:0]
-I FORWARD -j neutron-l3-agent-scope
-A neutron-l3-agent-scope -m mark --mark 0x1/0xffff -j DROP
COMMIT
"""


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_4_3_p_16_metadata_access_network(host, firewall):
    """Spec 4.3, row 8, and P-16: default route, router, metadata network, DHCP port; by the router's id.

    In spite of what the L3 agent drops, whose rules are the first of theirs.
    """
    host.places = dataclasses.replace(host.places, firewall=firewall)
    bridge, metadata = host.bridge(), host.bridge()
    networks = [
        (NET, bridge, [WITH_GATEWAY]),
        (NET_2, metadata, [(SUBNET_2, "169.254.169.252/30", "169.254.169.253")]),
    ]
    options = {
        "enable_isolated_metadata": True,
        "enable_metadata_network": True,
        "enable_metadata_proxy": False,
    }
    guests = [(NET, address) for address in GUESTS]
    wanted = host.plan(text(networks, guests, (SUBNET, SUBNET_2)), **options)
    host.converge(wanted)
    spaces = boot(host, bridge, bridge)
    assert {one.scope.kind for network in wanted.dhcp for one in network.listeners} == {"router"}
    run("ip", "netns", "exec", f"qrouter-{ROUTER}", "iptables-restore", "--noflush", stdin=_L3_AGENT)
    with host.serving(wanted):
        assert [uuid(space) for space in spaces] == UUIDS
    assert host.converge(wanted).actions == ()


def test_4_3_distributed_router(host):
    """Spec 4.3, row 9: an interface of a distributed router is one too."""
    bridge = host.bridge()
    inventory = text([(NET, bridge, [WITH_GATEWAY])], [(NET, address) for address in GUESTS], (SUBNET,))
    wanted = host.plan(inventory)
    there = host.view()
    ports = tuple(
        dataclasses.replace(port, device_owner=f"{port.device_owner}_distributed")
        if port.device_owner == "network:router_interface"
        else port
        for port in there.ports
    )
    routers = (RouterView(ROUTER, ha=True, distributed=True, is_primary=False),)
    distributed = plan(dataclasses.replace(there, ports=ports, routers=routers), Options())
    assert distributed == wanted
    host.converge(distributed)
    spaces = boot(host, bridge, bridge)
    with host.serving(distributed):
        assert [uuid(space) for space in spaces] == UUIDS


def test_seed_004_a_network_without_gateway(host):
    """Seed 004: its addresses, options line and routes; `metadata_v4_prefixlen = 16` as in 2013 (P-4)."""
    bridge = host.bridge()
    subnet = (SUBNET, "172.17.17.0/24", None)
    inventory = text([(NET, bridge, [subnet])], [(NET, "172.17.17.5"), (NET, "172.17.17.6")])
    wanted = host.plan(inventory, enable_isolated_metadata=True, metadata_v4_prefixlen=16)
    host.converge(wanted)
    spaces = boot(host, bridge, bridge)
    space = f"qdhcp-{NET}"
    shown = inside(space, "ip", "-4", "-o", "addr", "show", "scope", "global")
    assert [line.split()[3] for line in shown.splitlines()] == ["172.17.17.1/24", "169.254.169.254/16"]
    connected = [line.split()[0] for line in inside(space, "ip", "-4", "route").splitlines()]
    assert connected == ["169.254.0.0/16", "172.17.17.0/24"]
    options = (host.places.state / space / "opts").read_text()
    line = f"tag:subnet-{SUBNET},option:classless-static-route,169.254.169.254/32,172.17.17.1\n"
    assert line in options
    listening = inside(space, "ss", "-Hlnt").split()
    assert {"172.17.17.1:53", "169.254.169.254:53"} <= set(listening)
    with host.serving(wanted):
        for guest, expected in zip(spaces, UUIDS, strict=True):
            assert host_routes(guest) == {ROUTE: "172.17.17.1"}
            assert uuid(guest) == expected


def test_seed_003_force_metadata_moves_the_route(host):
    """Seed 003: from the router, .1, to the DHCP port, .2, at the next lease; both run all the while."""
    subnet = (SUBNET, "17.17.17.0/24", "17.17.17.1")
    guests = ("17.17.17.5", "17.17.17.6")
    wanted, spaces = two_guests(host, subnet, guests, (SUBNET,))
    with host.serving(wanted):
        assert [route_to(space) for space in spaces] == ["17.17.17.1"] * 2
        assert [uuid(space) for space in spaces] == UUIDS
    forced = host.plan((host.directory / "inventory.yaml").read_text(), force_metadata=True)
    assert [str(action).split(": ")[1][:5] for action in host.converge(forced).actions] == [
        "recor",
        "add 1",
        "write",
        "tell ",
        "recor",
    ]
    with host.serving(forced):
        for space, client in zip(spaces, CLIENTS, strict=True):
            inside(space, "ip", "addr", "flush", "dev", "eth0")
            host.lease(space, client)
        assert [route_to(space) for space in spaces] == ["17.17.17.2"] * 2
        assert [uuid(space) for space in spaces] == UUIDS


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_p_7_a_router_serves_its_own_side_only(host, firewall):
    """P-7: redirected for qr- only, the port itself unreachable, and marked packets never leave."""
    bridge, outside = host.bridge(), host.bridge()
    inventory = text([(NET, bridge, [WITH_GATEWAY])], [(NET, address) for address in GUESTS], (SUBNET,))
    host.places = dataclasses.replace(host.places, firewall=firewall)
    wanted = host.plan(inventory)
    host.converge(wanted)
    router, inner = f"qrouter-{ROUTER}", boot(host, bridge, bridge)[0]
    host.cable(router, "qg-outside", outside, "fa:16:3e:00:0a:01")
    stranger = host.guest(outside, "fa:16:3e:00:0a:02")
    ip(router, "addr add 203.0.113.1/24 dev qg-outside")
    ip(router, "link set qg-outside up")
    ip(stranger, "addr add 203.0.113.2/24 dev eth0")
    ip(stranger, "addr add 169.254.169.254/32 dev lo")
    with host.serving(wanted):
        assert uuid(inner) == UUIDS[0]
        for url in ("http://192.168.1.1:9697/", "http://203.0.113.1:9697/"):
            with pytest.raises(CommandError):
                ask(inner, url)
        ip(stranger, "addr del 169.254.169.254/32 dev lo")
        ip(stranger, "route add default via 203.0.113.1")
        for url in ("http://169.254.169.254/", "http://203.0.113.1:9697/"):
            with pytest.raises(CommandError):
                ask(stranger, url)
    without = host.plan(inventory, enable_metadata_proxy=False)
    host.converge(without)
    ip(stranger, "addr add 169.254.169.254/32 dev lo")
    ip(router, "route add 169.254.169.254 via 203.0.113.2")
    assert leaks(stranger, inner) == 0
    inside(router, *(["nft", "flush", "ruleset"] if firewall == "nftables" else ["iptables", "-F"]))
    assert leaks(stranger, inner) > 0


_COUNT = "table ip count { chain in { type filter hook prerouting priority 0; tcp dport 80 counter; }; }"


def leaks(stranger, inner):
    """Packets of a guest to the metadata address that got out to the other side of its router."""
    inside(stranger, "nft", _COUNT)
    with pytest.raises(CommandError):
        ask(inner)
    listed = inside(stranger, "nft", "list", "table", "ip", "count")
    inside(stranger, "nft", "delete", "table", "ip", "count")
    return int(listed.split("packets ")[1].split()[0])
