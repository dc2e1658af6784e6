"""What Neutron is asked for, to the byte, and what becomes of many networks and many ports."""

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from neutron_api import Cloud, answer, described, says
from peers import response

from mdmw.errors import NotIdentified, Unavailable
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.contract import Port
from mdmw.testing.resolvers import BLUE, ROUTER, World

ADA = Source("10.0.0.5", Scope("network", BLUE))
FIELDS = (
    "&fields=id&fields=device_id&fields=device_owner&fields=network_id&fields=project_id&fields=tenant_id"
    "&fields=mac_address&fields=fixed_ips&limit=1000"
)
ROUTER_QUERY = (
    f"/v2.0/ports?device_id={ROUTER}&device_owner=network%3Arouter_interface"
    "&device_owner=network%3Aha_router_replicated_interface"
    "&device_owner=network%3Arouter_interface_distributed"
    "&fields=id&fields=network_id&fields=fixed_ips&limit=1000"
)


def network(number):
    return f"00000000-0000-4000-8000-{number:012d}"


def guest(number, on=1, address=None):
    return Port(
        f"10000000-0000-4000-8000-{number:012d}",
        network(on),
        f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}",
        f"20000000-0000-4000-8000-{number:012d}",
        "compute:nova",
        "project",
        ((address or f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", f"subnet {on}"),),
    )


def interface(number):
    return Port(
        f"30000000-0000-4000-8000-{number:012d}",
        network(number),
        "fa:16:3e:ff:00:00",
        ROUTER,
        "network:router_interface",
        "",
        (("10.0.0.1", f"subnet {number}"),),
    )


def cloud_of(peers, *ports):
    return Cloud(peers, World((), tuple(ports)))


def networks_in(query):
    return [value for name, value in parse_qsl(query.partition("?")[2]) if name == "network_id"]


# --- the queries of spec 2.5 --------------------------------------------------------------


def test_by_address(cloud, neutron):
    """Spec 2.5, and R-3: the whole address, never a part of it."""
    neutron().resolve(ADA)
    assert cloud.queries == [f"/v2.0/ports?network_id={BLUE}&fixed_ips=ip_address%3D10.0.0.5{FIELDS}"]


def test_by_ipv6_address(cloud, neutron):
    """Spec 2.5."""
    neutron().resolve(Source("2001:db8:b::5", ADA.scope))
    query = f"/v2.0/ports?network_id={BLUE}&fixed_ips=ip_address%3D2001%3Adb8%3Ab%3A%3A5{FIELDS}"
    assert cloud.queries == [query]


def test_by_mac(cloud, neutron):
    """Spec 2.5, and R-7: the MAC instead of the address."""
    neutron().resolve(Source("fe80::f816:3eff:fe00:1", ADA.scope))
    mac = "fa%3A16%3A3e%3A00%3A00%3A01"
    assert cloud.queries == [f"/v2.0/ports?network_id={BLUE}&mac_address={mac}{FIELDS}"]


def test_by_router(cloud, neutron):
    """Spec 2.5, and R-2: the router's networks first, then the port on them."""
    neutron().resolve(Source("10.2.0.6", Scope("router", ROUTER)))
    first, second = cloud.queries
    assert first == ROUTER_QUERY
    assert second.endswith(f"&fixed_ips=ip_address%3D10.2.0.6{FIELDS}")
    assert len(networks_in(second)) == 2


def test_r2_without_interfaces_no_port_is_asked_for(cloud, neutron):
    """R-2: a query without networks would search the whole cloud."""
    with pytest.raises(NotIdentified):
        neutron().resolve(Source("10.2.0.6", Scope("router", BLUE)))
    assert len(cloud.queries) == 1


def test_headers(cloud, neutron):
    """Spec 2.5: token, JSON, and who asks."""
    neutron().resolve(ADA)
    (request,) = cloud.neutron.requests
    assert request.value("X-Auth-Token") == cloud.tokens[0]
    assert request.value("Accept") == "application/json"
    assert request.value("User-Agent").startswith("mdmw ")
    assert request.method == "GET"


# --- R-9 ----------------------------------------------------------------------------------

BEHIND = Source("10.9.9.9", Scope("router", ROUTER))


def test_r9_pieces_of_100_networks_and_every_one_is_read(peers, neutron):
    """R-9: a second match in the last piece still counts (R-6)."""
    twins = [guest(1, on=1, address=BEHIND.address), guest(2, on=250, address=BEHIND.address)]
    cloud = cloud_of(peers, *map(interface, range(1, 251)), *twins)
    with pytest.raises(NotIdentified, match="several"):
        neutron(cloud).resolve(BEHIND)
    assert [len(networks_in(query)) for query in cloud.queries] == [0, 100, 100, 50]
    assert [named for query in cloud.queries for named in networks_in(query)] == [
        network(n) for n in range(1, 251)
    ]


@pytest.mark.parametrize("mac", [False, True])
def test_r9_of_more_than_400_networks_none_is_named(peers, neutron, mac):
    """R-9: by IP, or by MAC, only; ports elsewhere that match are sifted out (R-1)."""
    here = guest(1, on=401, address=BEHIND.address)
    elsewhere = replace(here, id=guest(2).id, device_id=guest(2).device_id, network_id=network(999))
    cloud = cloud_of(peers, *map(interface, range(1, 402)), here, elsewhere)
    source = Source("fe80::f816:3eff:fe00:1", BEHIND.scope) if mac else BEHIND
    assert neutron(cloud).resolve(source).port_id == here.id
    assert [networks_in(query) for query in cloud.queries] == [[], []]


@pytest.mark.parametrize(
    "refusal",
    [
        response("414 URI Too Long"),
        response("400 Bad Request", b"<p>Request Line is too large (8300 &gt; 4094)</p>"),
        response("400 Bad Request", b"URI too long"),
    ],
)
def test_r9_a_query_that_is_too_long_is_halved(peers, neutron, refusal):
    """R-9: after a 414, or what other servers say instead; later queries begin with the shorter one."""
    cloud = cloud_of(peers, *map(interface, range(1, 101)), guest(1, on=77, address=BEHIND.address))
    cloud.longest_target = 2000
    cloud.refusal = refusal
    resolver = neutron(cloud)
    assert resolver.resolve(BEHIND).port_id == guest(1).id
    assert [len(networks_in(query)) for query in cloud.queries] == [0, 100, 50, 25, 25, 25, 25]
    assert resolver.resolve(BEHIND).port_id == guest(1).id
    assert [len(networks_in(query)) for query in cloud.queries[7:]] == [0, 25, 25, 25, 25]


def test_r9_one_network_that_is_too_long(cloud, neutron):
    """R-9: then there is nothing left to halve."""
    cloud.longest_target = 100
    with pytest.raises(Unavailable, match=r"Neutron: the query is too long \(414\), though"):
        neutron().resolve(ADA)
    assert len(cloud.queries) == 1


# --- R-10 ---------------------------------------------------------------------------------


def test_r10_every_page_is_read(peers, neutron):
    """R-10: the second match is on the third page."""
    here = [guest(n, address="10.0.0.9") for n in (1, 2, 3)]
    cloud = cloud_of(peers, *here)
    cloud.page = 1
    with pytest.raises(NotIdentified, match="several"):
        neutron(cloud).resolve(Source("10.0.0.9", Scope("network", network(1))))
    assert len(cloud.queries) == 4  # the fourth is empty
    assert [query.partition("&marker=")[2] for query in cloud.queries] == ["", *(port.id for port in here)]
    assert len({query.partition("&marker=")[0] for query in cloud.queries}) == 1


@pytest.mark.parametrize("origin", ["http://192.0.2.1", "https://neutron.example:1", "", "//192.0.2.1"])
def test_r10_a_next_link_never_leads_elsewhere(cloud, neutron, origin):
    """R-10: behind a proxy that ends TLS, links have another origin; the token goes nowhere but there."""
    page = {
        "ports": [],
        "ports_links": [
            {"rel": "previous", "href": "http://192.0.2.1/?marker=a"},
            {"rel": "next", "href": f"{origin}/v2.0/ports?limit=1&marker=0"},
        ],
    }
    cloud.neutron_faults.acts.append(says(answer(page)))
    assert neutron().resolve(ADA)
    assert cloud.queries[1] == f"{cloud.queries[0]}&marker=0"


@pytest.mark.parametrize(
    ("markers", "queries"), [(["a", "a"], 2), (["a", "b", "a"], 3), ([str(n) for n in range(999)], 200)]
)
def test_r10_pages_without_end(cloud, neutron, markers, queries):
    """R-10: a circle, and a list that goes on and on."""
    for marker in markers:
        page = {"ports": [], "ports_links": [{"rel": "next", "href": f"?marker={marker}"}]}
        cloud.neutron_faults.acts.append(says(answer(page)))
    with pytest.raises(Unavailable, match="a list of ports with no end"):
        neutron().resolve(ADA)
    assert len(cloud.queries) == queries


@pytest.mark.parametrize(
    "link", [7, None, {}, {"rel": "next"}, {"rel": "next", "href": 7}, {"rel": "next", "href": "x"}]
)
def test_r10_a_next_link_that_leads_nowhere(cloud, neutron, link):
    """R-10: what has been read may not be all of it."""
    cloud.neutron_faults.always = says(answer({"ports": [], "ports_links": [link]}))
    with pytest.raises(Unavailable, match="the link to the next page has no marker"):
        neutron().resolve(ADA)


# --- snapshots ----------------------------------------------------------------------------


def test_snapshot_is_one_query_and_answers_alike(peers, neutron):
    """Prefetch: all ports of a network at once, 1000 in a page."""
    cloud = cloud_of(peers, *(guest(n) for n in range(1, 401)))
    resolver = neutron(cloud)
    snapshot = resolver.snapshot(Scope("network", network(1)))
    assert cloud.queries == [f"/v2.0/ports?network_id={network(1)}{FIELDS}"]
    source = Source("10.0.1.7", Scope("network", network(1)))
    assert snapshot.resolve(source) == resolver.resolve(source)
    assert len(snapshot.ports) == 400


def test_snapshot_of_a_router(cloud, neutron):
    """Prefetch: two queries, and R-5 as when asked one by one."""
    snapshot = neutron().snapshot(Scope("router", ROUTER))
    assert len(cloud.queries) == 2
    source = Source("10.1.0.5", Scope("router", ROUTER))
    assert snapshot.resolve(source) == neutron().resolve(source)


def test_snapshot_too_large(peers, neutron):
    """prefetch_max_ports: None, and no further page is read."""
    cloud = cloud_of(peers, *(guest(n) for n in range(1, 41)))
    cloud.page = 10
    scope = Scope("network", network(1))
    assert neutron(cloud, prefetch_max_ports="19").snapshot(scope) is None
    assert len(cloud.queries) == 2
    assert neutron(cloud, prefetch_max_ports="39").snapshot(scope) is None
    assert len(neutron(cloud, prefetch_max_ports="40").snapshot(scope).ports) == 40


def test_snapshot_of_many_networks_is_in_pieces(peers, neutron):
    """R-9 holds for the prefetch too, which names networks however many they are."""
    cloud = cloud_of(peers, *map(interface, range(1, 451)))
    assert len(neutron(cloud).snapshot(BEHIND.scope).ports) == 450
    assert [len(networks_in(query)) for query in cloud.queries] == [0, 100, 100, 100, 100, 50]


# --- whatever Neutron says ----------------------------------------------------------------

_TEXTS = st.sampled_from(["", ADA.address, BLUE, "compute:nova", "network:dhcp", "next"]) | st.text(
    max_size=3
)
_LEAVES = st.none() | st.booleans() | st.integers() | _TEXTS
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3)
)
_FIXED = st.fixed_dictionaries({"ip_address": _TEXTS | _JSON, "subnet_id": _TEXTS | _JSON}) | _JSON
_WHOLE = replace(guest(1, address=ADA.address), network_id=BLUE)
_NAMES = sorted(described(_WHOLE))
_PORTS = st.builds(  # a port of the guest, with some of it replaced and some of it missing
    lambda junk, gone: {k: v for k, v in (described(_WHOLE) | junk).items() if k not in gone},
    st.fixed_dictionaries({}, optional=dict.fromkeys(_NAMES, _TEXTS | _JSON))
    | st.fixed_dictionaries({"fixed_ips": st.lists(_FIXED) | _JSON}),
    st.sets(st.sampled_from(_NAMES), max_size=1),
)
_LINKS = (
    st.lists(st.fixed_dictionaries({}, optional={"rel": _TEXTS | _JSON, "href": _TEXTS | _JSON}) | _JSON)
    | _JSON
)
_ANSWERS = _JSON | st.fixed_dictionaries(
    {"ports": st.lists(_PORTS, max_size=3) | _JSON}, optional={"ports_links": _LINKS}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(said=_ANSWERS)
@example(said={"ports": [described(replace(_WHOLE, network_id=network(1)))]})
@example(said={"ports": [described(replace(_WHOLE, fixed_ips=(("10.0.0.50", "subnet"),)))]})
def test_r1_whatever_neutron_says_only_a_matching_port_is_an_instance(cloud, resolver, said):
    """R-1, R-3, R-4: or nobody, or nobody knows; never another exception."""
    cloud.neutron_faults.always = says(answer(said))
    try:
        found = resolver.resolve(ADA)
    except (NotIdentified, Unavailable):
        return
    matching = [
        port
        for port in said["ports"]
        if port["network_id"] == BLUE
        and any(fixed["ip_address"] == ADA.address for fixed in port["fixed_ips"])
    ]
    assert found in [
        Instance(port["device_id"], port.get("project_id") or port.get("tenant_id") or "", port["id"])
        for port in matching
        if port.get("device_id") and not (port.get("device_owner") or "").startswith("network:")
    ]


@pytest.fixture
def resolver(neutron):
    return neutron()
