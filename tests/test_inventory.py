"""The inventory file: what it may say, and what is said about mistakes."""

import base64
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdmw.errors import ConfigError
from mdmw.inventory.file import load
from mdmw.inventory.values import Guest

SAMPLE = Path(__file__).parents[1] / "etc" / "inventory.yaml"

BASE = """\
networks:
  - id: 11111111-0000-4000-8000-000000000001
    subnets:
      - id: 22222222-0000-4000-8000-000000000001
        cidr: 10.0.0.0/24
        gateway_ip: 10.0.0.1
      - id: 22222222-0000-4000-8000-000000000002
        cidr: fd00::/64
  - id: 11111111-0000-4000-8000-000000000002
    subnets:
      - {id: 22222222-0000-4000-8000-000000000003, cidr: 10.0.0.0/24}
routers:
  - id: 33333333-0000-4000-8000-000000000001
    interfaces:
      - subnet: 22222222-0000-4000-8000-000000000001
instances:
  - id: 44444444-0000-4000-8000-000000000001
    project_id: 5d1f0c6e0a9b4e6f8f3f6f2b7c9d0e11
    name: one
    ports:
      - id: 55555555-0000-4000-8000-000000000001
        network: 11111111-0000-4000-8000-000000000001
        mac: fa:16:3e:00:00:01
        addresses: [10.0.0.5]
  - id: 44444444-0000-4000-8000-000000000002
    project_id: 5d1f0c6e0a9b4e6f8f3f6f2b7c9d0e11
    name: two
    ports:
      - id: 55555555-0000-4000-8000-000000000002
        network: 11111111-0000-4000-8000-000000000001
        mac: fa:16:3e:00:00:02
        addresses: [10.0.0.6, "FD00:0::6"]
"""
TWO = "    name: two\n"
NET_1 = "11111111-0000-4000-8000-000000000001"
NET_9 = "11111111-0000-4000-8000-000000000009"
PORT_1 = "55555555-0000-4000-8000-000000000001"
PORT_2 = "55555555-0000-4000-8000-000000000002"
SUBNET_1 = "22222222-0000-4000-8000-000000000001"
SUBNET_2 = "22222222-0000-4000-8000-000000000002"
SUBNET_9 = "22222222-0000-4000-8000-000000000009"
VM = "44444444-0000-4000-8000-000000000001"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "inventory.yaml"


def with_two(addition):
    """The base file, with more about the second instance; this starts at line 28."""
    return BASE.replace(TWO, TWO + "".join(f"    {line}\n" for line in addition.splitlines()))


def problem(path, text):
    """What load says about a text, without the name of the file."""
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


def second(path, addition):
    path.write_text(with_two(addition))
    return load(path).instances[1]


# --- what it may say --------------------------------------------------------------------


def test_the_sample_loads():
    inventory = load(SAMPLE)
    assert [network.name for network in inventory.networks] == ["blue", "green", "red"]
    blue, green, red = inventory.instances
    assert blue.ports[0].addresses == green.ports[0].addresses == ("10.0.0.5",)
    assert green.user_data.startswith(b"\x1f\x8b")
    assert blue.user_data.startswith(b"#cloud-config")
    assert blue.files[1].content == bytes(range(48))
    assert red.ports[0].addresses[0] == "10.0.1.5"


def test_defaults(path):
    path.write_text(BASE)
    inventory = load(path)
    assert inventory.networks[0].subnets[0].enable_dhcp is True
    assert inventory.networks[0].subnets[1].gateway_ip is None
    guest = inventory.instances[1]
    assert guest.ports[0].addresses == ("10.0.0.6", "fd00::6")
    assert guest.hostname == "two"
    assert guest.security_groups == ("default",)
    assert (guest.ec2_id, guest.reservation_id) == ("i-44444444", "r-00000002")
    assert guest.block_device_mapping == {
        "ami": "sda1",
        "ephemeral0": "sda2",
        "root": "/dev/sda1",
        "swap": "sda3",
    }
    assert guest.user_data is None


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("Blue One", "blue-one"),
        ("web_1.example", "web-1-example"),
        ("--x--", "x"),
        ("Ünïcode", "ncode"),
        ("日本", "server-u"),
        ("a" * 80, "a" * 63),
    ],
)
def test_hostname_from_the_name(name, hostname):
    """As Nova makes it."""
    assert Guest("u", "p", name).hostname == hostname


def test_user_data_in_three_forms(path):
    data = bytes(range(256))
    (path.parent / "user-data.bin").write_bytes(data)
    encoded = base64.b64encode(data).decode()
    assert second(path, f"user_data_base64: {encoded}").user_data == data
    assert second(path, f"user_data_base64: |\n  {encoded[:76]}\n  {encoded[76:]}").user_data == data
    assert second(path, "user_data_file: user-data.bin").user_data == data
    assert second(path, "user_data: |\n  é").user_data == "é\n".encode()
    assert second(path, "user_data: ''").user_data == b""


def test_a_key_without_value_counts_as_absent(path):
    guest = second(path, "keys:\nuser_data: null\nuser_data_base64:\nmeta: ~")
    assert (guest.keys, guest.user_data, guest.meta) == ((), None, {})


def test_what_yaml_takes_for_numbers(path):
    """YAML reads `52:54:00:12:34:56` and long ids as numbers; they are taken as they stand."""
    text = BASE.replace("fa:16:3e:00:00:02", "52:54:00:12:34:56")
    path.write_text(text.replace("5d1f0c6e0a9b4e6f8f3f6f2b7c9d0e11", "12345678901234567890123456789012"))
    guest = load(path).instances[1]
    assert guest.ports[0].mac == "52:54:00:12:34:56"
    assert guest.project_id == "12345678901234567890123456789012"


def test_json_values(path):
    guest = second(
        path, 'vendor_data: {a: [1, 0x10, 1.5, true, null, "x"], b: {c: {}}}\nvendor_data2: {t: [1]}'
    )
    assert guest.vendor_data == {"a": [1, 16, 1.5, True, None, "x"], "b": {"c": {}}}
    assert guest.vendor_data2 == {"t": [1]}


def test_same_addresses_and_macs_on_unrelated_networks(path):
    """2.3: that is what the network ids are for."""
    path.write_text(
        BASE.replace(
            "network: 11111111-0000-4000-8000-000000000001\n        mac: fa:16:3e:00:00:02\n"
            '        addresses: [10.0.0.6, "FD00:0::6"]',
            "network: 11111111-0000-4000-8000-000000000002\n        mac: fa:16:3e:00:00:01\n"
            "        addresses: [10.0.0.5]",
        )
    )
    one, two = load(path).instances
    assert one.ports[0].addresses == two.ports[0].addresses


def test_empty_inventory(path):
    path.write_text("{}")
    assert load(path).instances == ()


# --- what is said about mistakes --------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("networks:", "netwroks:", "1: netwroks: unknown key; known are: networks, routers, instances"),
        ("gateway_ip:", "gateway:", "6: networks[0].subnets[0].gateway: unknown key; known are: id, cidr, "),
        ("    name: one\n", "", "17: instances[0]: a key is missing: name"),
        ("name: one", "name: 1", "19: instances[0].name: a number is not allowed here, text is; put it in q"),
        ("name: one", "name: 2024-01-01", "19: instances[0].name: a date is not allowed here, text is"),
        ("name: one", "name: [one]", "19: instances[0].name: a list is not allowed here, text is"),
        ("name: one", "name: ''", "19: instances[0].name: '': one line of text is allowed, not empty"),
        ("name: one", r'name: "a\nb"', r"19: instances[0].name: 'a\nb': one line of text is allowed"),
        ("name: one", "name: one\n    name: two", "20: instances[0].name: the key is there twice"),
        (f"id: {VM}", "id: vm", "17: instances[0].id: 'vm': a UUID is allowed"),
        (
            "8000-000000000002\n    project",
            "8000-000000000001\n    project",
            "25: instances[1].id: this id is already that of instances[0].id",
        ),
        (PORT_2, PORT_1, "29: instances[1].ports[0].id: this id is already that of instances[0].ports[0].id"),
        (
            SUBNET_2,
            SUBNET_1,
            "7: networks[0].subnets[1].id: this id is already that of networks[0].subnets[0].id",
        ),
        (
            "fa:16:3e:00:00:02",
            "fa:16:3e:00:00",
            "31: instances[1].ports[0].mac: 'fa:16:3e:00:00': a MAC address",
        ),
        (
            "fa:16:3e:00:00:02",
            "FA-16-3E-00-00-01",
            "31: instances[1].ports[0].mac: this MAC address is already that of instances[0].ports[0].mac",
        ),
        (
            "[10.0.0.6,",
            "[10.0.0.5,",
            "32: instances[1].ports[0].addresses[0]: this address is already that of instances[0].ports[0",
        ),
        (
            "[10.0.0.6,",
            "[10.0.0.1,",
            "32: instances[1].ports[0].addresses[0]: this address is already that of routers[0].interface",
        ),
        (
            "[10.0.0.6,",
            "[10.1.0.6,",
            "32: instances[1].ports[0].addresses[0]: 10.1.0.6 is in no subnet of its",
        ),
        (
            "[10.0.0.6,",
            "[10.0.0.256,",
            "32: instances[1].ports[0].addresses[0]: '10.0.0.256': an IP address ",
        ),
        (
            "[10.0.0.6,",
            "[169.254.169.254,",
            "32: instances[1].ports[0].addresses[0]: '169.254.169.254': an IP ",
        ),
        (
            "[10.0.0.6,",
            "[fe80::1%eth0,",
            "32: instances[1].ports[0].addresses[0]: 'fe80::1%eth0': an IP addr",
        ),
        (
            f"network: {NET_1}\n        mac: fa:16:3e:00:00:02",
            f"network: {NET_9}\n        mac: fa:16:3e:00:00:02",
            "30: instances[1].ports[0].network: there is no network with this id",
        ),
        ("cidr: fd00::/64", "cidr: 10.0.0.0/25", "8: networks[0].subnets[1].cidr: overlaps 10.0.0.0/24"),
        (
            "cidr: fd00::/64",
            "cidr: fd00::1/64",
            "8: networks[0].subnets[1].cidr: 'fd00::1/64': a network such ",
        ),
        (
            "gateway_ip: 10.0.0.1",
            "gateway_ip: fd00::1",
            "6: networks[0].subnets[0].gateway_ip: an IPv4 address",
        ),
        (
            "gateway_ip: 10.0.0.1",
            "enable_dhcp: 'no'",
            "6: networks[0].subnets[0].enable_dhcp: text is not allow",
        ),
        (
            "gateway_ip: 10.0.0.1",
            "ipv6_address_mode: slaac",
            "6: networks[0].subnets[0].ipv6_address_mode: only",
        ),
        (
            "gateway_ip: 10.0.0.1",
            "ipv6_address_mode: auto",
            "6: networks[0].subnets[0].ipv6_address_mode: 'auto': slaac, dhcpv6-stateless, dhcpv6-statefu",
        ),
        (
            "gateway_ip: 10.0.0.1",
            "host_routes: [{destination: 10.9.0.0/16, nexthop: fd00::1}]",
            "6: networks[0].subnets[0].host_routes[0]: an IPv4 route is allowed",
        ),
        (
            f"subnet: {SUBNET_1}",
            f"subnet: {SUBNET_9}",
            "15: routers[0].interfaces[0].subnet: no network has this subnet",
        ),
        (
            f"subnet: {SUBNET_1}",
            f"subnet: {SUBNET_1}\n        address: 10.1.0.1",
            "16: routers[0].interfaces[0].address: not in 10.0.0.0/24",
        ),
    ],
)
def test_mistakes(path, old, new, said):
    """File, line, place, what is wrong, what is allowed."""
    assert old in BASE
    assert problem(path, BASE.replace(old, new, 1)).startswith(said)


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        (
            "user_data: x\nuser_data_base64: eA==",
            "29: instances[1].user_data_base64: only one is allowed of: user",
        ),
        ("user_data_base64: '***'", "28: instances[1].user_data_base64: not base64"),
        ("user_data_base64: eA", "28: instances[1].user_data_base64: not base64"),
        ("user_data_base64: é", "28: instances[1].user_data_base64: not base64"),
        ("user_data_file: nowhere", "28: instances[1].user_data_file: 'nowhere': there is no such file"),
        ("user_data_file: .", "28: instances[1].user_data_file: '.': is not a file"),
        ("user_data_file: /dev/zero", "28: instances[1].user_data_file: '/dev/zero': is not a file"),
        (
            "files: [{path: /x}]",
            "28: instances[1].files[0]: a key is missing: content or content_base64 or cont",
        ),
        (
            "files: [{path: x, content: ''}]",
            "28: instances[1].files[0].path: 'x': an absolute path is allowed",
        ),
        (
            "keys: [{name: k, data: d}, {name: k, data: e}]",
            "28: instances[1].keys[1].name: this name is already",
        ),
        (
            "keys: [{name: k, data: d, type: gpg}]",
            "28: instances[1].keys[0].type: 'gpg': ssh, x509 are allowed",
        ),
        ("meta: {a: 1}", "28: instances[1].meta.a: a number is not allowed here, text is; put it in quotes"),
        ("meta: {1: a}", "28: a key of instances[1].meta: a number is not allowed here, text is"),
        ("meta: {'a b': []}", "28: instances[1].meta.'a b': a list is not allowed here, text is"),
        ("vendor_data: []", "28: instances[1].vendor_data: a list is not allowed here, a mapping is"),
        ("vendor_data: {a: .nan}", "28: instances[1].vendor_data.a: JSON has no such number"),
        ("vendor_data: {a: 2024-01-01}", "28: instances[1].vendor_data.a: a date is not allowed here"),
        ("vendor_data: {a: !x y}", "28: instances[1].vendor_data.a: !x is not allowed here"),
        (
            "vendor_data: {a: !!python/name:os.system ''}",
            "28: instances[1].vendor_data.a: python/name:os.system is",
        ),
        ("vendor_data: {a: !!int x}", "28: instances[1].vendor_data.a: not a usable number"),
        (
            "extra_metadata: {uuid: x}",
            "28: instances[1].extra_metadata.uuid: a new key without '-' is allowed",
        ),
        (
            "extra_metadata: {a-b: x}",
            "28: instances[1].extra_metadata.'a-b': a new key without '-' is allowed",
        ),
        (f"password: {'x' * 1021}", "28: instances[1].password: at most 1020 bytes are allowed"),
        ("launch_index: -1", "28: instances[1].launch_index: -1: 0 to 2147483647 is allowed"),
        (
            "launch_index: yes",
            "28: instances[1].launch_index: true or false is not allowed here, a whole number is",
        ),
        ("ec2_id: 42", "28: instances[1].ec2_id: '42': an id such as i-0000002a is allowed"),
        ("hostname: a b", "28: instances[1].hostname: 'a b': a host name is allowed"),
        ("public_ipv4: fd00::1", "28: instances[1].public_ipv4: 'fd00::1': an IPv4 address is allowed"),
        ("block_device_mapping: {a/b: c}", "28: instances[1].block_device_mapping.'a/b': names such as ami"),
        ("devices: [{type: nic}]", "28: instances[1].devices[0]: a key is missing: mac"),
        (
            "devices: [{type: disk, vlan: 5}]",
            "28: instances[1].devices[0].vlan: goes with type nic, not disk",
        ),
        (
            "dedicated_cpus: [a]",
            "28: instances[1].dedicated_cpus[0]: text is not allowed here, a whole number",
        ),
    ],
)
def test_mistakes_about_an_instance(path, addition, said):
    assert problem(path, with_two(addition)).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1: the document is empty"),
        ("[]", "1: the document: a list is not allowed here, a mapping is"),
        ("networks: [\n", "2: not YAML: "),
        ("a: 1\n---\nb: 2\n", "2: not YAML: but found another document"),
        ("networks: &a [*a]\n", "1: aliases (*name) are not allowed; write the value out"),
        ("x: &a {b: c}\ny:\n  <<: *a\n", "3: aliases (*name) are not allowed"),
        ("[" * 100_000, "1: nested too deep; 50 levels are allowed"),
        ("a: '\0'", "1: not YAML: "),
        ('networks: "\\ud800"', "1: "),
    ],
)
def test_documents_that_are_no_inventory(path, text, said):
    assert problem(path, text).startswith(said)


def test_not_a_file(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "none")
    with pytest.raises(ConfigError, match="is not a file"):
        load(tmp_path)


def test_bytes_that_are_no_text(path):
    path.write_bytes(b"networks: \xff\xfe\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load(path)


def test_long_values_are_cut(path):
    assert len(problem(path, BASE.replace("10.0.0.0/24", "x" * 10_000, 1))) < 250


# --- whatever the file says, it loads or there is one line about it ----------------------

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.binary(max_size=5)
    | st.text(max_size=12)
    | st.sampled_from(
        ["10.0.0.5", "fd00::5", "10.0.0.0/24", "fa:16:3e:00:00:01", "44444444-0000-4000-8000-000000000001"]
    )
)
_KEYS = [
    "networks", "routers", "instances", "id", "subnets", "cidr", "interfaces", "subnet", "address", "ports",
    "network", "mac", "addresses", "name", "project_id", "meta", "files", "path", "content", "keys", "data",
    "vendor_data", "extra_metadata", "devices", "type", "user_data", "user_data_base64", "user_data_file",
]  # fmt: skip
_trees = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)
_anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def loads_or_explains(path):
    try:
        load(path)
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert "\n" not in message
    assert message.startswith(str(path))


@_anywhere
@given(tree=_trees)
def test_any_tree(path, tree):
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="replace")
    loads_or_explains(path)


@_anywhere
@given(
    content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes(path, content):
    path.write_bytes(content)
    loads_or_explains(path)


_LINES = SAMPLE.read_text().splitlines()


@_anywhere
@given(number=st.integers(0, len(_LINES) - 1), line=st.text(max_size=30) | st.sampled_from(_LINES))
def test_any_line_changed(path, number, line):
    """An edit that went wrong anywhere in the sample."""
    lines = [*_LINES[:number], line, *_LINES[number + 1 :]]
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    loads_or_explains(path)


@_anywhere
@given(data=st.data())
def test_any_value_replaced(path, data):
    """A wrong value at any place of the sample."""
    tree = yaml.safe_load(SAMPLE.read_text())
    node = tree
    while True:
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(_scalars)
            break
        node = node[key]
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="replace")
    loads_or_explains(path)
