"""Inventories written as documents and read again: whatever they say, it is the same."""

import ipaddress
import json
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdmw.checked_yaml import document
from mdmw.errors import ConfigError
from mdmw.inventory import entries
from mdmw.inventory.entries import of_entry, of_inventory
from mdmw.inventory.file import load, written
from mdmw.inventory.values import (
    Device,
    File,
    Guest,
    HostRoute,
    Interface,
    Inventory,
    InventoryPort,
    Key,
    Network,
    Router,
    Subnet,
)

SAMPLE = Path(__file__).parents[1] / "etc" / "inventory.yaml"
ID = "44444444-0000-4000-8000-000000000001"

_ids = st.uuids().map(str)
_texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\r\t#:-'\"\x85"), max_size=20)
_lines = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), min_size=1, max_size=12
)
_words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
_bytes = st.binary(max_size=12) | _texts.map(str.encode)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)
_objects = st.dictionaries(_texts, _json, max_size=3)
_macs = st.integers(0, 2**24 - 1).map(lambda n: f"fa:16:3e:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}")


def maybe(values):
    return st.none() | values


def some(values, most=3):
    return st.lists(values, max_size=most).map(tuple)


def distinct(values, key):
    return st.lists(values, max_size=3, unique_by=key).map(tuple)


_devices = st.one_of(
    st.builds(
        Device,
        type=st.just("nic"),
        bus=_words,
        mac=_macs,
        vlan=maybe(st.integers(1, 4094)),
        vf_trusted=maybe(st.booleans()),
        tags=some(_lines),
    ),
    st.builds(Device, type=st.just("disk"), address=_words, serial=maybe(_lines), path=maybe(_lines)),
    st.builds(Device, type=st.just("share"), share_id=_ids, tag=maybe(_lines)),
)


@st.composite
def networks(draw):
    number = draw(st.integers(0, 255))
    v4 = st.builds(
        Subnet,
        id=_ids,
        cidr=st.just(ipaddress.ip_network(f"10.{number}.0.0/16")),
        gateway_ip=maybe(st.just(f"10.{number}.0.1")),
        enable_dhcp=st.booleans(),
        dns_nameservers=some(st.sampled_from(["10.0.0.2", "fd00::2"])),
        host_routes=some(
            st.builds(HostRoute, st.just(ipaddress.ip_network("10.9.0.0/24")), st.just("10.0.0.7"))
        ),
        dhcp_address=maybe(st.just(f"10.{number}.0.2")),
    )
    v6 = st.builds(
        Subnet,
        id=_ids,
        cidr=st.just(ipaddress.ip_network(f"fd00:{number:x}::/64")),
        ipv6_address_mode=maybe(st.sampled_from(["slaac", "dhcpv6-stateless", "dhcpv6-stateful"])),
    )
    return Network(
        draw(_ids),
        draw(st.just("") | _lines),
        draw(maybe(st.integers(68, 65535))),
        tuple(draw(kind) for kind in (v4, v6) if draw(st.booleans())),
        draw(maybe(st.from_regex("[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", fullmatch=True))),
    )


_guests = st.builds(
    Guest,
    id=_ids,
    project_id=_words,
    name=_lines,
    hostname=st.just("") | st.from_regex("[A-Za-z0-9][A-Za-z0-9.-]{0,9}", fullmatch=True),
    availability_zone=st.just("") | _lines,
    launch_index=st.integers(0, 2**31 - 1),
    keys=distinct(st.builds(Key, _lines, _texts, st.sampled_from(["ssh", "x509"])), lambda key: key.name),
    user_data=maybe(_bytes),
    vendor_data=_objects,
    vendor_data2=_objects,
    meta=st.dictionaries(_texts, _texts, max_size=3),
    files=some(st.builds(File, _words.map(lambda word: f"/{word}"), _bytes)),
    network_config=maybe(_texts.map(str.encode)),
    password=_texts.map(str.encode),
    admin_pass=maybe(_texts),
    extra_metadata=st.dictionaries(st.sampled_from(["site", "a b", "ü"]), _json, max_size=2),
    security_groups=some(_lines),
    public_ipv4=st.sampled_from(["", "203.0.113.5"]),
    block_device_mapping=st.dictionaries(st.sampled_from(["ami", "ebs0"]), _lines),
    devices=some(_devices),
    dedicated_cpus=some(st.integers(0, 65535)),
    ec2_id=st.sampled_from(["", "i-0000002a"]),
    kernel_id=st.just("") | _words,
)


@st.composite
def inventories(draw):
    """Inventories that are right: some of all there is to say."""
    by_id = {"unique_by": lambda entry: entry.id, "max_size": 3}
    nets = draw(st.lists(networks(), **by_id))
    routers = []
    guests = draw(st.lists(_guests, **by_id))
    if nets and (nets[0].subnets and draw(st.booleans())):
        address = maybe(st.just(str(nets[0].subnets[0].cidr[9])))
        routers = [Router(draw(_ids), (Interface(nets[0].subnets[0].id, draw(address)),))]
    if nets and guests:
        addresses = tuple(str(subnet.cidr[5]) for subnet in nets[0].subnets)
        words = maybe(_words)
        port = InventoryPort(
            draw(_ids), nets[0].id, draw(_macs), addresses, draw(words), draw(words), draw(words)
        )
        # Guests are made with their derived names; so a changed copy has the same.
        guests[0] = Guest(**{name: getattr(guests[0], name) for name in Guest.__slots__} | {"ports": (port,)})
    bridges = [net.bridge for net in nets if net.bridge]
    subnets = [subnet.id for net in nets for subnet in net.subnets]
    if len(set(bridges)) < len(bridges) or len(set(subnets)) < len(subnets):
        return Inventory()
    return Inventory(tuple(nets), tuple(routers), tuple(guests))


_anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@_anywhere
@given(inventory=inventories())
def test_what_is_written_is_read(tmp_path, inventory):
    path = tmp_path / "inventory.yaml"
    path.write_text(written(inventory), encoding="utf-8", newline="")
    assert load(path) == inventory
    assert json.dumps(of_inventory(load(path))) == json.dumps(of_inventory(inventory))


@_anywhere
@given(inventory=inventories())
def test_what_is_json_is_read(inventory):
    checks = {
        "networks": entries.network,
        "routers": entries.router,
        "instances": entries.guest,
    }
    for kind, check in checks.items():
        for entry in getattr(inventory, kind):
            text = json.dumps(of_entry(entry))
            again = check(document(json.loads(text)))
            assert again == entry
            assert json.dumps(of_entry(again)) == text


def test_the_sample_says_no_more_than_is_needed():
    """Defaults and what is made from other values are left out; bytes are text when they can be."""
    blue, green, red = load(SAMPLE).instances
    assert list(of_entry(red)) == ["id", "project_id", "name", "ports"]
    assert list(of_entry(red)["ports"][0]) == ["id", "network", "mac", "addresses"]
    assert "user_data_base64" in of_entry(green)
    assert of_entry(blue)["user_data"].startswith("#cloud-config\n")
    assert of_entry(blue)["files"][0] == {"path": "/etc/example.conf", "content": "colour = blue\n"}


def test_lines_are_written_as_lines(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(written(load(SAMPLE)))
    assert "  user_data: |\n    #cloud-config\n" in path.read_text()
    assert load(path) == load(SAMPLE)


# --- what JSON may say ------------------------------------------------------------------------

GUEST = {"id": ID, "project_id": "p", "name": "n"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"colour": 1}, "colour: unknown key; known are: id, "),
        ({"name": None}, "the document: a key is missing: name"),
        ({"name": 1}, "name: a number is not allowed here, text is"),
        ({"name": "a\nb"}, r"name: 'a\nb': one line of text is allowed"),
        ({"name": "\ud800"}, "name: half a surrogate pair"),
        ({"keys": {}}, "keys: a mapping is not allowed here, a list is"),
        ({"keys": [{"name": "k"}]}, "keys[0]: a key is missing: data"),
        ({"user_data_file": "/etc/shadow"}, "user_data_file: only a file can name another file"),
        (
            {"files": [{"path": "/x", "content_file": "/etc/shadow"}]},
            "files[0].content_file: only a file can",
        ),
        ({"vendor_data": {"a": float("inf")}}, "vendor_data.a: JSON has no such number"),
        ({"vendor_data": {"a": 2**1024}}, "vendor_data.a: at most 1024 bits are allowed"),
        ({"launch_index": 1.0}, "launch_index: a number is not allowed here, a whole number is"),
        ({"launch_index": True}, "launch_index: true or false is not allowed here"),
        ({"meta": {"\ud800": "x"}}, "a key of meta: half a surrogate pair"),
        ({"ports": [{"id": ID, "network": ID, "mac": 5}]}, "ports[0].mac: '5': a MAC address"),
    ],
)
def test_mistakes_in_json(more, said):
    """Place, what is wrong, what is allowed; without a file there is no line."""
    with pytest.raises(ConfigError) as error:
        entries.guest(document(GUEST | more))
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_json_that_is_nested_too_deep():
    deep = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(ConfigError, match=r"^the document: nested too deep; 50 levels are allowed$"):
        document({"vendor_data": deep})
    while deep:  # or the interpreter's own recursion ends at it
        deep = deep.pop("a")


@pytest.mark.parametrize("whole", [[], "text", None, 5, True])
def test_json_that_is_no_object(whole):
    with pytest.raises(ConfigError, match=r"^the document: .* is not allowed here, a mapping is"):
        entries.guest(document(whole))


@_anywhere
@given(tree=_json | st.dictionaries(st.sampled_from([*GUEST, "meta", "keys", "ports", "files"]), _json))
def test_any_json(tree):
    """It is read, or there is one line about it."""
    message = ""
    try:
        entries.guest(document(tree))
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message


def test_a_number_that_python_cannot_write(tmp_path):
    path = tmp_path / "inventory.yaml"
    number = "0x" + "f" * 5000
    path.write_text(
        f"instances: [{{id: {uuid.UUID(ID)}, project_id: p, name: n, vendor_data: {{a: {number}}}}}]"
    )
    with pytest.raises(ConfigError, match="at most 1024 bits are allowed"):
        load(path)
