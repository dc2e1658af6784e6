"""The plan of a node, held to the tables of spec 4.2 to 4.9."""

import dataclasses
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw.node.desired import dnsmasq
from mdmw.node.plan import Options, PlannedListener, device_name, is_isolated, plan, serves
from mdmw.node.view import Bridge, NodeView, RouterView, SubnetView
from mdmw.records import Scope
from mdmw.resolvers.contract import ROUTER_INTERFACE_OWNERS, Port

NET = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
ROUTER = "5a4d1c0b-2f6e-4b19-8d6a-0c9e7f3b1a22"
OTHER_ROUTER = "6b5e2d1c-3a7f-4c2a-9e7b-1d0f8a4c2b33"
V4, V6, SECOND = ("subnet-a", "subnet-b", "subnet-c")


def port(name, owner, device, *fixed, network=NET):
    return Port(
        f"{name}-0000-4000-8000-000000000000", network, "fa:16:3e:00:00:01", device, owner, "p", fixed
    )


def subnet(subnet_id=V4, cidr="192.168.1.0/24", **fields):
    return SubnetView(subnet_id, NET, cidr, **fields)


def dhcp(address="192.168.1.2", *more):
    return port("d4c90000", "network:dhcp", f"dhcp-{NET}", (address, V4), *more)


def interface(
    address="192.168.1.1", owner="network:router_interface", router=ROUTER, subnet_id=V4, name="10000000"
):
    return port(name, owner, router, (address, subnet_id))


def view(subnets, ports, routers=()):
    local = frozenset(p.id for p in ports if p.device_owner == "network:dhcp")
    return NodeView((NET,), tuple(subnets), tuple(ports), tuple(routers), local)


def only(subnets, ports, routers=(), **options):
    """The plan of the one network."""
    made = plan(view(subnets, ports, routers), Options(**options))
    assert len(made.dhcp) == 1
    return made.dhcp[0]


ISOLATED = {"enable_isolated_metadata": True}
BOTH = {"enable_isolated_metadata": True, "enable_metadata_network": True}


# --- P-1 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gateway", "ports", "isolated"),
    [
        (None, [], True),
        (None, [interface()], True),
        ("192.168.1.1", [], True),
        ("192.168.1.1", [interface("192.168.1.9")], True),
        *(("192.168.1.1", [interface(owner=owner)], False) for owner in ROUTER_INTERFACE_OWNERS),
        ("192.168.1.1", [interface(owner="network:router_gateway")], True),
        ("192.168.1.1", [interface(owner="network:router_centralized_snat")], True),
        ("192.168.1.1", [interface(subnet_id=SECOND)], True),
    ],
)
def test_p_1_isolated(gateway, ports, isolated):
    """P-1: not isolated exactly if a router's interface has the gateway's address on that subnet."""
    assert is_isolated(subnet(gateway_ip=gateway), ports) is isolated


def test_p_1_spelling_of_an_ipv6_gateway():
    """P-1: two spellings of one address are equal."""
    v6 = subnet(V6, "fd00:a::/64", gateway_ip="FD00:A:0::1")
    assert not is_isolated(v6, [interface("fd00:a::1", subnet_id=V6)])


# --- the table of 4.3 -------------------------------------------------------------------


def oracle(*, ovn, with_dhcp, force, isolated_option, network_option, metadata_subnet, some_isolated):
    """The table again, from its rows."""
    rows = [
        (ovn, False),
        (not with_dhcp, False),
        (force, True),
        (not isolated_option, False),
        (network_option and metadata_subnet, True),
        (some_isolated, True),
        (True, False),
    ]
    return next((answer, row) for row, (holds, answer) in enumerate(rows, 1) if holds)


@pytest.mark.parametrize("facts", list(itertools.product([False, True], repeat=7)))
def test_4_3_every_combination(facts):
    """Table 4.3: all 128 combinations of what it asks, first matching row decides."""
    ovn, with_dhcp, force, isolated_option, network_option, metadata_subnet, some_isolated = facts
    cidr = "169.254.169.252/30" if metadata_subnet else "192.168.1.0/24"
    gateway = "169.254.169.253" if metadata_subnet else "192.168.1.1"
    subnets = [subnet(cidr=cidr, gateway_ip=gateway, enable_dhcp=with_dhcp)]
    ports = [] if some_isolated else [interface(gateway)]
    if ovn:
        ports.append(port("0e000000", "network:distributed", f"ovnmeta-{NET}"))
    options = Options(
        force_metadata=force, enable_isolated_metadata=isolated_option, enable_metadata_network=network_option
    )
    assert serves(subnets, ports, options) == oracle(
        ovn=ovn,
        with_dhcp=with_dhcp,
        force=force,
        isolated_option=isolated_option,
        network_option=network_option,
        metadata_subnet=metadata_subnet,
        some_isolated=some_isolated,
    )


def test_4_3_isolated_subnet_without_dhcp_does_not_count():
    """Table 4.3, row 6: any *DHCP-enabled* subnet."""
    subnets = [subnet(gateway_ip="192.168.1.1"), subnet(SECOND, "10.9.0.0/24", enable_dhcp=False)]
    assert serves(subnets, [interface()], Options(**ISOLATED)) == (False, 7)


def test_4_3_an_isolated_ipv6_subnet_counts():
    """Table 4.3, row 6: v4 or v6."""
    subnets = [subnet(gateway_ip="192.168.1.1"), subnet(V6, "fd00:a::/64")]
    assert serves(subnets, [interface()], Options(**ISOLATED)) == (True, 6)


ROUTED = ([subnet(gateway_ip="192.168.1.1")], [dhcp(), interface()])
ALONE = ([subnet(gateway_ip="192.168.1.1")], [dhcp()])
BY_DHCP, BY_GATEWAY = "169.254.169.254/32,192.168.1.2", "169.254.169.254/32,192.168.1.1"


@pytest.mark.parametrize(
    ("options", "world", "routed", "hop", "network_serves", "router_serves"),
    [
        ({}, ROUTED, True, BY_GATEWAY, False, True),
        ({}, ALONE, False, None, False, False),
        (ISOLATED, ROUTED, True, BY_GATEWAY, False, True),
        (ISOLATED, ALONE, False, BY_DHCP, True, False),
        ({"force_metadata": True}, ROUTED, True, BY_DHCP, True, True),
        ({"force_metadata": True}, ALONE, False, BY_DHCP, True, False),
        ({"enable_metadata_proxy": False}, ROUTED, True, BY_GATEWAY, False, False),
    ],
)
def test_4_3_whole_system(options, world, routed, hop, network_serves, router_serves):
    """The matrix of 4.3: who serves, and where the guest's route goes (seed 003: force wins)."""
    made = plan(view(*world, [RouterView(ROUTER)] if routed else []), Options(**options))
    lines = [line for line in made.dhcp[0].options if "classless-static-route" in line]
    assert [hop in line for line in lines] == ([True] if hop else [])
    assert bool(made.dhcp[0].listeners) is network_serves
    assert any(router.listeners for router in made.routers) is router_serves


def test_4_3_mixed_subnets():
    """The matrix of 4.3: each subnet of a mixed network has its own way."""
    subnets = [subnet(gateway_ip="192.168.1.1"), subnet(SECOND, "10.9.0.0/24", segment_id="s")]
    ports = [dhcp("192.168.1.2", ("10.9.0.2", SECOND)), interface()]
    made = only(subnets, ports, **ISOLATED)
    text = "\n".join(made.options)
    assert f"tag:subnet-{V4},option:classless-static-route,{BY_GATEWAY}" in text
    assert f"tag:subnet-{SECOND},option:classless-static-route,169.254.169.254/32,10.9.0.2" in text
    assert made.listeners


# --- 4.4 --------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["force_metadata", "enable_isolated_metadata"])
def test_p_2_addresses_of_the_dhcp_port(option):
    """P-2: after its fixed addresses, on every DHCP port, served or not; LP#1549793."""
    subnets = [
        subnet(cidr="192.168.0.0/24", gateway_ip="192.168.0.9"),
        subnet(V6, "fdca:3ba5:a17a::/64", gateway_ip="fdca:3ba5:a17a::9"),
    ]
    ports = [
        port("d4c90000", "network:dhcp", "x", ("192.168.0.1", V4), ("fdca:3ba5:a17a::1", V6)),
        interface("192.168.0.9"),
        interface("fdca:3ba5:a17a::9", subnet_id=V6, name="20000000"),
    ]
    made = only(subnets, ports, **{option: True})
    metadata = ("169.254.169.254/32", "fe80::a9fe:a9fe/128")
    assert made.addresses == ("192.168.0.1/24", "fdca:3ba5:a17a::1/64", *metadata)
    assert bool(made.listeners) is (option == "force_metadata")


def test_p_2_without_ipv6():
    """P-2: the IPv6 one only if the network has an IPv6 subnet and the host has IPv6."""
    assert "fe80::a9fe:a9fe/128" not in only(*ALONE, **ISOLATED).addresses
    both = [*ALONE[0], subnet(V6, "fd00:a::/64")]
    assert "fe80::a9fe:a9fe/128" in only(both, ALONE[1], **ISOLATED).addresses
    assert "fe80::a9fe:a9fe/128" not in only(both, ALONE[1], **ISOLATED, ipv6=False).addresses


def test_p_2_neither_option():
    """P-2: without both options the port has its own addresses only."""
    assert only(*ALONE).addresses == ("192.168.1.2/24",)


def test_p_4_prefix_length_of_seed_004():
    """P-4: /16 on request, as in 2013."""
    made = only(*ALONE, **ISOLATED, metadata_v4_prefixlen=16)
    assert made.addresses == ("192.168.1.2/24", "169.254.169.254/16")


def test_p_6_default_routes():
    """P-6: the first DHCP-enabled subnet's gateway for each IP version."""
    subnets = [
        subnet("subnet-0", "10.1.0.0/24", gateway_ip="10.1.0.1", enable_dhcp=False),
        subnet(V4, gateway_ip="192.168.1.1"),
        subnet(V6, "fd00:a::/64", gateway_ip="fd00:a::1"),
        subnet(SECOND, "10.9.0.0/24", gateway_ip="10.9.0.1"),
    ]
    assert only(subnets, [dhcp()], **ISOLATED).gateways == ("192.168.1.1", "fd00:a::1")


# --- 4.5 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subnets", "ports", "options", "lines"),
    [
        (
            [subnet()],
            [dhcp("192.168.1.1")],
            ISOLATED,
            [
                "option:classless-static-route,169.254.169.254/32,192.168.1.1",
                "249,169.254.169.254/32,192.168.1.1",
                "option:router",
            ],
        ),
        (
            [subnet(gateway_ip="192.168.1.1")],
            [dhcp()],
            ISOLATED,
            [
                "option:classless-static-route,169.254.169.254/32,192.168.1.2,0.0.0.0/0,192.168.1.1",
                "249,169.254.169.254/32,192.168.1.2,0.0.0.0/0,192.168.1.1",
                "option:router,192.168.1.1",
            ],
        ),
        (
            [subnet(cidr="192.168.0.0/24", gateway_ip="192.168.0.1")],
            [dhcp("192.168.0.2"), interface("192.168.0.1", owner="network:router_interface_distributed")],
            {},
            [
                "option:classless-static-route,169.254.169.254/32,192.168.0.1,0.0.0.0/0,192.168.0.1",
                "249,169.254.169.254/32,192.168.0.1,0.0.0.0/0,192.168.0.1",
                "option:router,192.168.0.1",
            ],
        ),
        ([subnet(gateway_ip="192.168.1.1")], [dhcp()], {}, ["option:router,192.168.1.1"]),
        (
            [subnet(dns_nameservers=("8.8.8.8", "9.9.9.9"))],
            [dhcp()],
            {},
            ["option:dns-server,8.8.8.8,9.9.9.9", "option:router"],
        ),
        # The DHCP port has no address on this subnet: no route to it (G1 broke here).
        ([subnet()], [port("d4c90000", "network:dhcp", "x")], ISOLATED, ["option:router"]),
    ],
)
def test_4_5_exact_lines(subnets, ports, options, lines):
    """Spec 4.5, the table of exact lines."""
    assert list(only(subnets, ports, **options).options) == [f"tag:subnet-{V4},{line}" for line in lines]


def test_4_5_routes_in_their_order():
    """Spec 4.5: on-link routes, the user's, metadata, the default last."""
    subnets = [
        subnet(cidr="192.168.0.0/24", gateway_ip="192.168.0.1", host_routes=(("20.0.0.1/24", "20.0.0.1"),)),
        subnet(SECOND, "192.168.1.0/24", enable_dhcp=False),
    ]
    routes = (
        "192.168.1.0/24,0.0.0.0,20.0.0.1/24,20.0.0.1,169.254.169.254/32,192.168.0.1,0.0.0.0/0,192.168.0.1"
    )
    assert only(subnets, [dhcp("192.168.0.2"), interface("192.168.0.1")]).options == (
        f"tag:subnet-{V4},option:classless-static-route,{routes}",
        f"tag:subnet-{V4},249,{routes}",
        f"tag:subnet-{V4},option:router,192.168.0.1",
    )


def test_4_5_a_default_route_of_the_user_becomes_the_gateway():
    """Spec 4.5: not listed, and the gateway if the subnet has none."""
    made = only([subnet(host_routes=(("0.0.0.0/0", "192.168.1.7"),))], [dhcp()], **ISOLATED)
    assert made.options[-1] == f"tag:subnet-{V4},option:router,192.168.1.7"
    assert made.options[0].endswith("169.254.169.254/32,192.168.1.2,0.0.0.0/0,192.168.1.7")


def test_4_5_ovn_metadata_port_is_the_next_hop():
    """Spec 4.5: the OVN metadata port before anything else."""
    ovn = port("0e000000", "network:distributed", f"ovnmeta-{NET}", ("192.168.1.3", V4))
    made = only([subnet(gateway_ip="192.168.1.1")], [dhcp(), ovn], force_metadata=True)
    assert "169.254.169.254/32,192.168.1.3" in made.options[0]
    assert made.listeners == ()


def test_4_5_ipv6_subnets_have_no_routes():
    """Spec 4.5: dnsmasq's DHCPv6 has no route option, and nothing for SLAAC."""
    servers = ("fd00::53",)
    stateful = subnet(V6, "fd00:a::/64", dns_nameservers=servers, ipv6_address_mode="dhcpv6-stateful")
    slaac = subnet(V6, "fd00:a::/64", dns_nameservers=servers, ipv6_address_mode="slaac")
    assert only([stateful], [dhcp()], **ISOLATED).options == (
        f"tag:subnet-{V6},option6:dns-server,[fd00::53]",
    )
    assert only([slaac], [dhcp()], **ISOLATED).options == ()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *[("slaac", "ra-only"), ("dhcpv6-stateless", "ra-stateless"), ("dhcpv6-stateful", "static")],
        (None, "static"),
    ],
)
def test_ipv6_subnets_that_are_ours_to_announce(mode, kind):
    """Without Neutron there is no radvd of Neutron's: dnsmasq announces, name servers too."""
    v6 = subnet(V6, "fd00:a::/64", dns_nameservers=("fd00::53",), ipv6_address_mode=mode)
    there = dataclasses.replace(view([subnet(), v6], [dhcp()]), bridges=(Bridge(NET, "br0"),))
    made = plan(there, Options(**ISOLATED)).dhcp[0]
    assert made.server.ranges[1] == f"set:subnet-{V6},fd00:a::,{kind},64,86400s"
    words = dnsmasq(made, made.server, Path("/x")).argv
    announced = {"--enable-ra", f"--ra-param={made.device},0,0"}
    servers = f"--dhcp-option=tag:subnet-{V6},option6:dns-server,[fd00::53]"
    assert announced | {servers} <= set(words)
    [v4_only] = plan(dataclasses.replace(there, subnets=(subnet(),)), Options(**ISOLATED)).dhcp
    assert not announced & set(dnsmasq(v4_only, v4_only.server, Path("/x")).argv)


# --- routers ----------------------------------------------------------------------------


def router_plan(router=None, ports=(), subnets=(), **options):
    made = plan(view(subnets, ports, [router or RouterView(ROUTER)]), Options(**options))
    return made.routers[0]


def test_4_7_listeners():
    """Spec 4.7: where each kind of namespace is listened in."""
    both = [subnet(), subnet(V6, "fd00:a::/64")]
    made = only(both, [dhcp()], **ISOLATED)
    scope = Scope("network", NET)
    assert made.listeners == (
        PlannedListener("169.254.169.254", 80, scope),
        PlannedListener("fe80::a9fe:a9fe", 80, scope, made.device),
    )
    assert (made.namespace, made.device) == (f"qdhcp-{NET}", "tapd4c90000-00")
    router = router_plan()
    assert router.listeners == (PlannedListener("::", 9697, Scope("router", ROUTER)),)
    assert router_plan(ipv6=False).listeners[0].address == "0.0.0.0"
    assert router.namespace == f"qrouter-{ROUTER}"


@pytest.mark.parametrize(
    ("router", "options", "runs"),
    [
        (RouterView(ROUTER), {}, True),
        (RouterView(ROUTER), {"enable_metadata_proxy": False}, False),
        (RouterView(ROUTER, ha=True, is_primary=True), {}, True),
        (RouterView(ROUTER, ha=True, is_primary=False), {}, False),
        (RouterView(ROUTER, ha=True, is_primary=False), {"ha_proxy_always": True}, True),
        (RouterView(ROUTER, distributed=True), {}, True),
        (RouterView(ROUTER, ha=True, distributed=True, is_primary=False), {}, True),
    ],
)
def test_4_8_who_runs(router, options, runs):
    """Spec 4.8: HA by state, DVR everywhere; rules are there in any case."""
    made = router_plan(router, **options)
    assert bool(made.listeners) is runs
    assert (made.rules.redirect_to == 9697) is ("enable_metadata_proxy" not in options)


def test_4_8_two_dhcp_devices_on_one_node():
    """Spec 4.8, LP#1989979: IPv4 only, and it is said."""
    second = port("e5da0000", "network:dhcp", "y", ("192.168.1.3", V4))
    made = plan(view([subnet(), subnet(V6, "fd00:a::/64")], [dhcp(), second]), Options(**ISOLATED))
    for network in made.dhcp:
        assert [listener.address for listener in network.listeners] == ["169.254.169.254"]
        assert "IPv6" in network.warnings[0]


def test_p_8_routes_for_radvd():
    """P-8: on every internal device with an IPv6 subnet."""
    ports = [interface(), interface("fd00:a::1", subnet_id=V6, name="20000000")]
    made = router_plan(ports=ports, subnets=[subnet(), subnet(V6, "fd00:a::/64")])
    assert made.ra_routes == (("qr-20000000-00", "route fe80::a9fe:a9fe/128 { };"),)


# --- 4.9 --------------------------------------------------------------------------------

METADATA_SUBNET = subnet(cidr="169.254.169.252/30", gateway_ip="169.254.169.253")


def test_4_9_metadata_network_speaks_for_its_router():
    """Spec 4.9: the DHCP port has the address by itself, and the scope is the router."""
    ports = [dhcp("169.254.169.254"), interface("169.254.169.253", owner=ROUTER_INTERFACE_OWNERS[1])]
    made = only([METADATA_SUBNET], ports, **BOTH)
    assert made.listeners == (PlannedListener("169.254.169.254", 80, Scope("router", ROUTER)),)
    assert made.addresses == ("169.254.169.254/30",)


def test_4_9_several_routers():
    """Spec 4.9: the first one, and a warning."""
    ports = [
        dhcp("169.254.169.254"),
        interface("169.254.169.253"),
        interface("169.254.169.253", router=OTHER_ROUTER, name="20000000"),
    ]
    made = only([METADATA_SUBNET], ports, **BOTH)
    assert made.listeners[0].scope == Scope("router", ROUTER)
    assert OTHER_ROUTER in made.warnings[0]


def test_4_9_other_networks_keep_their_own_id():
    """Spec 4.9, LP#1703059: only networks with such a subnet get the router's id."""
    made = only([subnet(gateway_ip="192.168.1.254")], [dhcp(), interface()], **BOTH)
    assert made.listeners[0].scope == Scope("network", NET)
    alone = only([METADATA_SUBNET], [dhcp("169.254.169.254"), interface("169.254.169.253")], **ISOLATED)
    assert alone.listeners == ()


def test_p_16_marked_packets_may_go_to_the_metadata_network():
    """P-16: only with the proxy off, and only towards that interface."""
    inside = interface("169.254.169.253", name="20000000")
    ports, subnets = [interface(subnet_id=SECOND), inside], [METADATA_SUBNET, subnet(SECOND)]
    off = router_plan(ports=ports, subnets=subnets, enable_metadata_proxy=False)
    assert (off.rules.forward_to, off.rules.redirect_to) == ((device_name("qr-", inside),), None)
    assert router_plan(ports=ports, subnets=subnets).rules.forward_to == ()


# --- as a whole -------------------------------------------------------------------------

IDS = st.sampled_from([NET, "2" * 8 + NET[8:], "3" * 8 + NET[8:]])
SUBNETS = st.builds(
    SubnetView,
    id=st.sampled_from([V4, V6, SECOND, "subnet-d"]),
    network_id=IDS,
    cidr=st.sampled_from(["10.0.0.0/24", "192.168.1.0/24", "169.254.169.252/30", "fd00:a::/64"]),
    gateway_ip=st.sampled_from([None, "10.0.0.1", "192.168.1.1", "fd00:a::1"]),
    enable_dhcp=st.booleans(),
    ipv6_address_mode=st.sampled_from([None, "slaac", "dhcpv6-stateless", "dhcpv6-stateful"]),
)
OWNERS = st.sampled_from([*ROUTER_INTERFACE_OWNERS, "network:dhcp", "compute:nova", "network:distributed"])
PORTS = st.builds(
    Port,
    id=st.uuids().map(str),
    network_id=IDS,
    mac=st.just("fa:16:3e:00:00:01"),
    device_id=st.sampled_from([ROUTER, OTHER_ROUTER, f"ovnmeta-{NET}"]),
    device_owner=OWNERS,
    project_id=st.just("p"),
    fixed_ips=st.lists(
        st.tuples(
            st.sampled_from(["10.0.0.1", "192.168.1.1", "192.168.1.2", "fd00:a::1"]),
            st.sampled_from([V4, V6, SECOND, "subnet-d"]),
        ),
        max_size=2,
    ).map(tuple),
)


@st.composite
def views(draw):
    ports = tuple(draw(st.lists(PORTS, max_size=6, unique_by=lambda p: p.id)))
    subnets = tuple(draw(st.lists(SUBNETS, max_size=4, unique_by=lambda s: s.id)))
    local = frozenset(p.id for p in ports if p.device_owner == "network:dhcp" and draw(st.booleans()))
    routers = tuple(RouterView(router, ha=draw(st.booleans())) for router in (ROUTER, OTHER_ROUTER))
    return NodeView(tuple(draw(st.lists(IDS, max_size=3))), subnets, ports, routers, local)


OPTIONS = st.builds(
    Options, *(st.booleans() for _ in range(4)), ipv6=st.booleans(), ha_proxy_always=st.booleans()
)


@given(views(), OPTIONS, st.randoms(use_true_random=False))
def test_the_order_of_a_view_does_not_matter(there, options, rng: random.Random):
    """Same input, same plan, whatever the order."""

    def shuffled(values):
        return tuple(rng.sample(values, len(values)))

    names = ("networks", "subnets", "ports", "routers")
    other = dataclasses.replace(there, **{name: shuffled(getattr(there, name)) for name in names})
    assert plan(there, options) == plan(other, options)


@given(views(), OPTIONS)
def test_what_holds_for_every_plan(there, options):
    """P-2, 4.7, P-7: listeners only where 4.3 says so, their address on the device, no doubles."""
    made = plan(there, options)
    for network in made.dhcp:
        assert bool(network.listeners) is (network.row in (3, 5, 6))
        assert len(set(network.addresses)) == len(network.addresses)
        if network.listeners:
            assert any(a.startswith("169.254.169.254/") for a in network.addresses)
        has_v6 = any(a.startswith("fe80::a9fe:a9fe/") for a in network.addresses)
        assert not any(":" in item.address for item in network.listeners) or has_v6
    for router in made.routers:
        assert not router.listeners or router.rules.redirect_to == options.metadata_port
        assert not (router.rules.forward_to and router.rules.redirect_to)
