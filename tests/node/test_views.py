"""What a plan is made from: an inventory file, or Neutron's REST API; and a plan as text."""

import dataclasses
import json
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from test_plan import OPTIONS, views

from mdmw.errors import ConfigError, Unavailable
from mdmw.inventory import file as inventory_file
from mdmw.node import file_view
from mdmw.node.neutron_view import HaStates, NeutronView
from mdmw.node.plan import Options, dumps, loads, plan
from mdmw.node.view import Bridge, RouterView

SAMPLE = Path(__file__).parents[2] / "etc" / "inventory.yaml"
NET = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
SUBNET = "8d2b7c14-0f35-4e0a-b6a9-51c7e9d3f042"
ISOLATED = Options(enable_isolated_metadata=True)


# --- the file ---------------------------------------------------------------------------


def of_file(path, text):
    path.write_text(text)
    return file_view.view(inventory_file.load(path), path)


def network(**subnet):
    fields = {"id": SUBNET, "cidr": "10.0.0.0/24"} | subnet
    return json.dumps({"networks": [{"id": NET, "bridge": "br-blue", "mtu": 1450, "subnets": [fields]}]})


def test_only_networks_with_a_bridge_here():
    """The sample: blue has one; the router's networks have none."""
    found = file_view.view(inventory_file.load(SAMPLE), SAMPLE)
    assert found.networks == (NET,)
    assert found.bridges == (Bridge(NET, "br-blue", 1450),)
    assert found.routers == ()
    made = plan(found, ISOLATED).dhcp[0]
    assert made.addresses == ("10.0.0.2/24", "169.254.169.254/32")
    assert made.server.hosts == ("fa:16:3e:5b:10:05,host-10-0-0-5,10.0.0.5",)
    assert made.server.ranges == (f"set:subnet-{SUBNET},10.0.0.0,static,255.255.255.0,86400s",)
    route = f"tag:subnet-{SUBNET},option:classless-static-route,169.254.169.254/32,10.0.0.2"
    assert made.options[1] == route  # once, though the file has it as a host route too


@pytest.mark.parametrize(
    ("subnet", "address"),
    [
        ({}, "10.0.0.1/24"),
        ({"gateway_ip": "10.0.0.1"}, "10.0.0.2/24"),
        ({"gateway_ip": "10.0.0.254"}, "10.0.0.1/24"),
        ({"dhcp_address": "10.0.0.77"}, "10.0.0.77/24"),
        ({"cidr": "fd00:a::/64", "gateway_ip": "fd00:a::1"}, "fd00:a::2/64"),
        ({"cidr": "169.254.169.252/30", "gateway_ip": "169.254.169.253"}, "169.254.169.254/30"),
    ],
)
def test_the_address_of_the_dhcp_port(tmp_path, subnet, address):
    """The first that is not the gateway's, unless the file says another."""
    made = plan(of_file(tmp_path / "i.yaml", network(**subnet)), ISOLATED)
    assert made.dhcp[0].addresses[0] == address


def test_ids_and_macs_stay(tmp_path):
    """The same file gives the same devices tomorrow."""
    first, second = (plan(of_file(tmp_path / name, network()), ISOLATED) for name in ("a.yaml", "b.yaml"))
    assert first == second
    wire = first.dhcp[0].wire
    assert re.fullmatch("fa:16:3e(:[0-9a-f]{2}){3}", wire.mac)
    assert max(len(wire.device), len(wire.outer)) <= 15
    assert (wire.bridge, wire.mtu) == ("br-blue", 1450)


def test_without_dhcp_there_is_no_port(tmp_path):
    assert plan(of_file(tmp_path / "i.yaml", network(enable_dhcp=False)), ISOLATED).dhcp == ()


def test_an_address_that_is_taken(tmp_path):
    guest = {
        "id": str(uuid.uuid4()),
        "project_id": "p",
        "name": "g",
        "ports": [
            {"id": str(uuid.uuid4()), "network": NET, "mac": "fa:16:3e:00:00:01", "addresses": ["10.0.0.1"]}
        ],
    }
    text = json.dumps(json.loads(network()) | {"instances": [guest]})
    with pytest.raises(
        ConfigError, match=r"i.yaml: subnet .*: 10.0.0.1 is needed for DHCP, but a port has it; set"
    ):
        of_file(tmp_path / "i.yaml", text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("br-blue", "-dash", "the name of a bridge"),
        ("br-blue", "a-name-that-is-too-long", "the name of a bridge"),
        ("10.0.0.9", "10.9.9.9", "not in 10.0.0.0/24"),
        ("10.0.0.9", "elsewhere", "an IP address"),
    ],
)
def test_mistakes_in_the_file(tmp_path, old, new, said):
    text = network(dhcp_address="10.0.0.9")
    with pytest.raises(ConfigError, match=said):
        of_file(tmp_path / "i.yaml", text.replace(old, new))


def test_one_bridge_is_one_network(tmp_path):
    one = json.loads(network())["networks"][0]
    other = {"id": str(uuid.uuid4()), "bridge": "br-blue"}
    with pytest.raises(ConfigError, match="this bridge is already that of networks"):
        of_file(tmp_path / "i.yaml", json.dumps({"networks": [one, other]}))


# --- Neutron ----------------------------------------------------------------------------

HOST = "node-7"
ROUTER, OTHER = "b28e6f41-5d07-49ca-8c9f-13a4d7e0b652", "c38e6f41-5d07-49ca-8c9f-13a4d7e0b653"


def port(name, owner, device, *fixed, host="", network_id=NET):
    return {
        "id": f"{name}-0000-4000-8000-000000000000",
        "network_id": network_id,
        "mac_address": "fa:16:3e:00:00:01",
        "device_id": device,
        "device_owner": owner,
        "project_id": "p",
        "fixed_ips": [{"ip_address": address, "subnet_id": subnet} for address, subnet in fixed],
        "binding:host_id": host,
    }


class Rest:
    """Neutron's lists; `get` answers as Neutron does, in pages of two."""

    def __init__(self) -> None:
        subnet = {
            "id": SUBNET,
            "network_id": NET,
            "cidr": "10.0.0.0/24",
            "gateway_ip": "10.0.0.1",
            "enable_dhcp": True,
            "dns_nameservers": ["9.9.9.9"],
            "host_routes": [{"destination": "10.7.0.0/16", "nexthop": "10.0.0.7"}],
            "ipv6_address_mode": None,
            "segment_id": None,
        }
        self.lists = {
            "networks": [{"id": NET, "admin_state_up": True}],
            "subnets": [subnet],
            "routers": [
                {"id": ROUTER, "ha": False, "distributed": False, "admin_state_up": True},
                {"id": OTHER, "ha": True, "distributed": False, "admin_state_up": True},
            ],
            "ports": [
                port("d4c90000", "network:dhcp", f"dhcp-{NET}", ("10.0.0.2", SUBNET), host=HOST),
                port("d4c90001", "network:dhcp", f"dhcp-{NET}", ("10.0.0.3", SUBNET), host="node-8"),
                port("d4c90002", "network:dhcp", "reserved_dhcp_port", ("10.0.0.4", SUBNET), host=HOST),
                port("10000000", "network:router_interface", ROUTER, ("10.0.0.1", SUBNET)),
                port("20000000", "compute:nova", str(uuid.uuid4()), ("10.0.0.9", SUBNET)),
            ],
        }
        self.queries: list[str] = []
        self.instead: dict[int, Callable[[requests.Response], None]] = {}

    def get(self, path: str) -> requests.Response:
        self.queries.append(path)
        response = requests.Response()
        response.status_code = 200
        response._content = json.dumps(self._page(path)).encode()
        self.instead.get(len(self.queries), lambda _response: None)(response)
        return response

    def _page(self, path: str) -> dict:
        kind, _, text = path.removeprefix("/v2.0/").partition("?")
        query = parse_qsl(text)
        asked: dict[str, set[str]] = {}
        for name, value in query:
            asked.setdefault(name, set()).add(value)
        fields, marker = asked.pop("fields"), asked.pop("marker", {""}).pop()
        asked.pop("limit")
        found = [item for item in self.lists[kind] if all(str(item[n]) in v for n, v in asked.items())]
        rest = sorted((item for item in found if item["id"] > marker), key=lambda item: item["id"])
        answer: dict = {kind: [{k: v for k, v in item.items() if k in fields} for item in rest[:2]]}
        if len(rest) > 2:
            again = [(n, v) for n, v in query if n != "marker"] + [("marker", rest[1]["id"])]
            href = f"http://elsewhere/v2.0/{kind}?{urlencode(again)}"
            answer[f"{kind}_links"] = [{"rel": "next", "href": href}]
        return answer


@pytest.fixture
def rest():
    return Rest()


NAMESPACES = frozenset({f"qdhcp-{NET}", f"qrouter-{ROUTER}", f"qrouter-{OTHER}", "qrouter-nonsense", "mine"})


def read(rest, states=Path("/nowhere")):
    return NeutronView(rest.get, HOST, HaStates(states, 0)).read(NAMESPACES)


def test_what_is_on_this_host(rest):
    """DHCP ports bound here, routers whose namespaces are here; everything that a plan needs of them."""
    found = read(rest)
    assert found.networks == (NET,)
    assert found.dhcp_ports == {"d4c90000-0000-4000-8000-000000000000"}
    assert {one.id[:8] for one in found.ports} == {"d4c90000", "d4c90001", "d4c90002", "10000000"}
    assert found.routers == (RouterView(ROUTER), RouterView(OTHER, ha=True, is_primary=False))
    subnet = found.subnets[0]
    assert (subnet.dns_nameservers, subnet.host_routes) == (("9.9.9.9",), (("10.7.0.0/16", "10.0.0.7"),))
    made = plan(found, ISOLATED)
    assert [one.namespace for one in (*made.dhcp, *made.routers)] == [
        f"qdhcp-{NET}",
        f"qrouter-{ROUTER}",
        f"qrouter-{OTHER}",
    ]
    assert made.dhcp[0].row == 7


def test_r_10_every_page_is_read_and_leads_nowhere_else(rest):
    """R-10: two to a page here."""
    read(rest)
    pages = [query for query in rest.queries if "marker" in query]
    assert pages
    assert all(query.startswith("/v2.0/ports?") for query in pages)


def test_r_9_many_networks_are_asked_for_in_pieces(rest):
    """R-9: no URL is longer than 8 KiB, and nothing is lost."""
    ids = [str(uuid.uuid4()) for _ in range(120)]
    rest.lists["networks"] += [{"id": one, "admin_state_up": True} for one in ids]
    rest.lists["ports"] += [
        port(f"{n:08x}", "network:dhcp", f"dhcp-{one}", host=HOST, network_id=one)
        for n, one in enumerate(ids)
    ]
    assert set(read(rest).networks) == {NET, *ids}
    assert max(map(len, rest.queries)) < 8192


def test_a_network_that_is_switched_off_is_not_served(rest):
    rest.lists["networks"][0]["admin_state_up"] = False
    assert plan(read(rest), ISOLATED).dhcp == ()


@pytest.mark.parametrize(("text", "primary"), [("primary", True), ("master\n", True), ("backup", False)])
def test_4_8_the_state_of_an_ha_router(rest, tmp_path, text, primary):
    """Spec 4.8: as the L3 agent's own file says."""
    (tmp_path / OTHER).mkdir()
    (tmp_path / OTHER / "state").write_text(text)
    assert read(rest, tmp_path).routers[1].is_primary is primary


def test_4_8_who_flaps_does_not_count(tmp_path):
    """Spec 4.8: primary counts after a while, backup at once; the same state again changes nothing."""
    file = tmp_path / ROUTER / "state"
    file.parent.mkdir()
    (tmp_path / f"{ROUTER}.pid").write_text("7")
    states = HaStates(tmp_path, 2)

    def write(text, age):
        file.write_text(text)
        os.utime(file, (time.time() - age,) * 2)

    write("primary", 0)
    assert (states.look(), states.is_primary(ROUTER)) == (frozenset(), False)
    write("primary", 2)
    assert states.is_primary(ROUTER)
    assert states.look() == {ROUTER}
    write("primary", 0)
    assert states.look() == {ROUTER}
    write("backup", 0)
    assert states.look() == frozenset()
    write("primary", 0)
    assert states.look() == frozenset()
    write("primary", -3600)  # the clock was put back
    assert states.look() == {ROUTER}


def test_4_8_a_state_that_cannot_be_read_is_no_state(rest, tmp_path):
    """Spec 4.8: rather nothing is changed."""
    (tmp_path / OTHER / "state").mkdir(parents=True)
    with pytest.raises(Unavailable, match="the state file of an HA router cannot be read"):
        read(rest, tmp_path)


def status(number):
    return lambda response: setattr(response, "status_code", number)


def body(text):
    return lambda response: setattr(response, "_content", text)


@pytest.mark.parametrize(
    "fault",
    [
        *(status(500), status(401), status(403), status(404), status(302)),
        *(
            body(b""),
            body(b"{"),
            body(b"[]"),
            body(b'{"ports": {}}'),
            body(b'{"networks": [1]}'),
            body(b"[" * 9999),
        ),
        body(b'{"ports": [{}], "networks": [{}], "subnets": [{}], "routers": [{}]}'),
    ],
)
def test_half_an_answer_is_no_view(fault):
    """Whichever of the answers is bad: `Unavailable`, so that nothing is taken away."""
    whole = Rest()
    read(whole)
    for number in range(1, len(whole.queries) + 1):
        rest = Rest()
        rest.instead = {number: fault}
        with pytest.raises(Unavailable) as error:
            read(rest)
        assert "\n" not in str(error.value)


def test_a_list_without_end(rest):
    for number in range(1, 300):
        links = [{"rel": "next", "href": f"/?marker={number}"}]
        rest.instead[number] = body(json.dumps({"ports": [], "ports_links": links}).encode())
    with pytest.raises(Unavailable, match="no end"):
        read(rest)


# --- a plan as text ---------------------------------------------------------------------


def sound(there):
    """Without addresses of the wrong IP version, which `views` has and a cloud has not."""
    versions = {subnet.id: subnet.version for subnet in there.subnets}

    def fits(address, subnet_id):
        return versions.get(subnet_id) == (6 if ":" in address else 4)

    ports = (
        dataclasses.replace(one, fixed_ips=tuple(fixed for fixed in one.fixed_ips if fits(*fixed)))
        for one in there.ports
    )
    return dataclasses.replace(there, ports=tuple(ports))


def with_bridges(there):
    bridges = tuple(Bridge(network_id, "br0") for network_id in there.networks)
    return dataclasses.replace(there, bridges=bridges)


UUIDS = ["8d2b7c14-0f35-4e0a-b6a9-51c7e9d3f04" + digit for digit in "0123"]


@given(views(), OPTIONS, st.booleans())
def test_there_and_back(there, options, wired):
    """Whatever a plan is, its text is taken."""
    there = sound(there)
    text = dumps(plan(with_bridges(there) if wired else there, options))
    for name, real in zip(("subnet-a", "subnet-b", "subnet-c", "subnet-d"), UUIDS, strict=True):
        text = text.replace(f"subnet-{name}", f"subnet-{real}")
    assert dumps(loads(text)) == text


@pytest.fixture(scope="module")
def good():
    found = file_view.view(inventory_file.load(SAMPLE), SAMPLE)
    made = plan(dataclasses.replace(found, routers=(RouterView(ROUTER),)), ISOLATED)
    return json.loads(dumps(made))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dhcp/0/namespace", "qdhcp-../../etc"),
        ("dhcp/0/namespace", f"qrouter-{NET}"),
        ("dhcp/0/namespace", f"qdhcp-{ROUTER}"),
        ("dhcp/0/namespace", f"qdhcp-{NET}\n"),
        ("dhcp/0/device", "eth0"),
        ("dhcp/0/device", "tap"),
        ("dhcp/0/addresses/0", "10.0.0.2/99"),
        ("dhcp/0/addresses/0", 7),
        ("dhcp/0/gateways", ["; reboot"]),
        ("dhcp/0/options/0", "option:router\nlog-dhcp"),
        ("dhcp/0/options/0", "x" * 2000),
        ("dhcp/0/listeners/0/address", "0.0.0.0"),
        ("dhcp/0/listeners/0/port", 22),
        ("dhcp/0/listeners/0/scope/kind", "all"),
        ("dhcp/0/row", True),
        ("dhcp/0/wire/outer", "eth0"),
        ("dhcp/0/wire/bridge", "--help"),
        ("dhcp/0/wire/mac", "any"),
        ("dhcp/0/server/ranges/0", "10.0.0.1,10.0.0.9 --dhcp-script=/bin/sh"),
        ("dhcp/0/server/hosts/0", "fa:16:3e:5b:10:05,ignore"),
        ("routers/0/rules/mark", 0),
        ("routers/0/rules/mark", 0x10000),
        ("routers/0/rules/forward_to", ['qr-1" accept; drop; "']),
        ("routers/0/rules/ipv6", 1),
        ("routers/0/listeners/0/port", 80),
        ("routers/0/ra_routes", [["qr-5a4d1c0b-2f", "}; interface eth0 { AdvSendAdvert on; };"]]),
        ("routers/0/listeners/0/scope/id", NET),
        ("routers/0/listeners/0/address", "10.0.0.1"),
        ("routers/0/namespace", f"qrouter-{NET}"),
        ("routers", {}),
        ("dhcp/0", None),
        ("dhcp/0/more", 1),
    ],
)
def test_nothing_is_taken_on_trust(good, path, value):
    """A planner that was broken into makes nothing but what plans make."""
    text = json.dumps(good)
    loads(text)
    broken = json.loads(text)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    place = broken
    for step in steps:
        place = place[step]
    place[last] = value
    with pytest.raises(ValueError) as error:
        loads(json.dumps(broken))
    assert "\n" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text() | JSON.map(json.dumps) | st.just("[" * 100_000))
def test_garbage_is_refused(text):
    with pytest.raises(ValueError):
        loads(text)
