"""What is there, asked of the kernel by our own few lines of netlink: it is what `ip` and `nft` show."""

import dataclasses
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvm_host import Host, inside, ip, made, obstacle

from mdmw.netlink import attributes, dump
from mdmw.node import firewall, namespaces, network_state
from mdmw.node.network_state import DeviceAddress, NetworkDevice
from mdmw.node.plan import RouterRules

needs_root = pytest.mark.skipif(bool(obstacle()), reason=f"needs root and: {obstacle()}")
VALUES = st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=8)


@given(VALUES, st.binary(max_size=20))
def test_attributes(values, before):
    """RFC 3549: each with its length and type, the next one at a multiple of four."""
    body = bytes(before)
    for kind, value in values.items():
        body += struct.pack("=HH", 4 + len(value), kind | 0x8000) + value
        body += b"\0" * (-len(value) % 4)
    assert attributes(body, len(before)) == values


@given(st.binary(max_size=200))
def test_attributes_of_garbage(body):
    """It ends."""
    assert all(len(value) <= len(body) for value in attributes(body, 0).values())


@pytest.fixture
def host():
    with made() as one:
        yield one


@needs_root
def test_devices_addresses_and_routes(host: Host):
    """As `ip` shows them, and the addresses in its order."""
    bridge = host.bridge()
    space = host.guest(bridge, "fa:16:3e:00:00:01")
    for words in (
        "link add br0 type bridge",
        "link set br0 up",
        "link add v0 type veth peer v1",
        "link set v0 master br0 mtu 1400",
        "addr add 10.1.0.5/24 dev eth0",
        "addr add 10.1.0.4/24 dev eth0",
        "addr add 10.3.0.1 peer 10.3.0.2/32 dev eth0",
        "addr add 169.254.169.254/32 dev eth0",
        "addr add fe80::a9fe:a9fe/128 dev eth0 nodad",
        "route add default via 10.1.0.1",
        "-6 route add default via fe80::1 dev eth0",
        "-6 route add default via fe80::2 dev eth0 metric 2048 proto ra",
        "route add 10.9.0.0/16 via 10.1.0.1",
        "route add default via 10.1.0.9 table 77",
    ):
        ip(space, words)
    seen = network_state.inside(space, network_state.devices)
    for link in json.loads(ip(space, "-j addr")):
        device = seen.pop(link["ifname"])
        assert (device.mac, device.mtu) == (link["address"], link["mtu"])
        assert device.up == ("UP" in link["flags"])
        assert device.bridge == link.get("master")
        alone = dataclasses.replace(device, addresses=())
        assert network_state.inside(space, lambda name=device.name: network_state.read_device(name)) == alone
        addresses = [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"]]
        assert [one.text for one in device.addresses] == addresses
    assert seen == {}
    ip(space, "link property add dev br0 altname other")
    assert network_state.inside(space, lambda: network_state.read_device("other")) is None
    assert network_state.inside(space, lambda: network_state.read_device("nobody")) is None
    routes = network_state.inside(space, network_state.default_routes)
    assert routes == {
        ("eth0", "10.1.0.1"),
        ("eth0", "fe80::1"),
    }


@needs_root
def test_4_8_duplicate_address_detection(host: Host):
    """Spec 4.8: tentative, then a duplicate where another has the address."""
    bridge = host.bridge()
    first, second = host.guest(bridge, "fa:16:3e:00:00:01"), host.guest(bridge, "fa:16:3e:00:00:02")
    ip(first, "addr add fe80::a9fe:a9fe/128 dev eth0 nodad")
    ip(second, "addr add fe80::a9fe:a9fe/128 dev eth0")

    def state() -> str:
        found = {
            one.text: one.state
            for one in network_state.inside(second, network_state.devices)["eth0"].addresses
        }
        return found["fe80::a9fe:a9fe/128"]

    states = [state()]
    while states[-1] == "tentative":
        states.append(state())
    assert states[-1] == "duplicate"


@needs_root
def test_p_7_rules(host: Host):
    """P-7: exactly ours, in our table; those of others do not count."""
    space = host.namespace(host.name("r"))
    rules = RouterRules()

    def is_set() -> bool:
        return network_state.inside(space, lambda: firewall.is_set("nftables", rules))

    assert not is_set()
    network_state.inside(space, lambda: firewall.set_rules("nftables", rules))
    assert is_set()
    inside(space, "nft", 'table inet others { chain guests-input { counter drop comment "x"; }; }')
    inside(space, "nft", "table ip mdmw { chain guests-input { counter drop; }; }")
    assert is_set()
    inside(space, "nft", "add rule inet mdmw guests-input drop")
    assert not is_set()
    network_state.inside(space, lambda: firewall.set_rules("nftables", rules))
    inside(space, "nft", "add chain inet mdmw other")
    assert not is_set()


@needs_root
def test_many_devices(host: Host):
    """More than one datagram of answers."""
    space = host.namespace(host.name("m"))
    lines = [f"link add bridge{n} type bridge" for n in range(200)]
    (host.directory / "batch").write_text("\n".join(lines))
    ip(space, f"-batch {host.directory}/batch")
    found = network_state.inside(space, network_state.devices)
    assert {f"bridge{n}" for n in range(200)} < set(found)
    assert found["lo"] == NetworkDevice("lo", "00:00:00:00:00:00", 65536, True, None, found["lo"].addresses)
    assert DeviceAddress("127.0.0.1/8") in found["lo"].addresses


@needs_root
def test_what_the_kernel_refuses_is_an_error():
    with pytest.raises(OSError, match="not supported"):
        dump(0, 9999, bytes(16), bytes)


@needs_root
def test_names_of_namespaces(host: Host):
    """Also of those that came later, and of another that has the name of one that is gone."""
    names = namespaces.Names()
    inodes = []
    for name in (host.name("a"), host.name("b")):
        host.namespace(name)
        inodes.append(namespaces.named_inode(name))
        assert names.of(inodes[-1]) == name
        assert names.of(inodes[0]) != ""
    namespaces.run("ip", "netns", "delete", name)
    assert names.of(inodes[1]) == ""
    namespaces.run("ip", "netns", "add", name)
    assert names.of(namespaces.named_inode(name)) == name
    assert names.of(1) == ""
