"""The algorithm of spec 2.1 by itself."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw.errors import Contradiction, NotIdentified
from mdmw.records import Instance, Scope, Source, mac_from_link_local
from mdmw.resolvers.contract import Port, choose, wanted_mac

NETWORK = Scope("network", "n1")
ROUTER = Scope("router", "r1")


def port(id_="p1", device="vm1", project="t1", address="10.0.0.5", subnet="s1", **changes):
    values = {"network_id": "n1", "mac": "fa:16:3e:01:02:03", "device_owner": "compute:nova"} | changes
    return Port(id=id_, device_id=device, project_id=project, fixed_ips=((address, subnet),), **values)


def test_r3_address_must_be_equal():
    """R-3: exact, not a prefix."""
    source = Source("10.0.0.5", NETWORK)
    assert choose([port(), port("p2", "vm2", address="10.0.0.50")], source) == Instance("vm1", "t1", "p1")


def test_r3_never_both_filters():
    """R-3: a link-local source is searched by MAC only, any other by address only."""
    assert choose([port(address="10.9.9.9")], Source("fe80::f816:3eff:fe01:203", NETWORK)).id == "vm1"
    with pytest.raises(NotIdentified):
        choose([port(address="10.9.9.9")], Source("10.0.0.5", NETWORK, "fa:16:3e:01:02:03"))


@pytest.mark.parametrize(
    "owner",
    ["network:dhcp", "network:router_interface", "network:floatingip", "network:distributed", "network:"],
)
def test_r4_cloud_ports(owner):
    """R-4: what belongs to the cloud is no guest."""
    with pytest.raises(NotIdentified):
        choose([port(device_owner=owner)], Source("10.0.0.5", NETWORK))


def test_r4_no_device():
    """R-4: a port without a device is no guest."""
    with pytest.raises(NotIdentified):
        choose([port(device="")], Source("10.0.0.5", NETWORK))


@pytest.mark.parametrize("owner", ["compute:nova", "baremetal:none", "trunk:subport", ""])
def test_r4_any_other_owner_counts(owner):
    """2.2: resolution does not depend on the kind of guest."""
    assert choose([port(device_owner=owner)], Source("10.0.0.5", NETWORK)).id == "vm1"


def test_r5_attached_subnet_decides():
    """R-5: by router, of several the one whose address is in an attached subnet."""
    ports = [port(), port("p2", "vm2", subnet="s2")]
    assert choose(ports, Source("10.0.0.5", ROUTER), {"s2"}).id == "vm2"
    with pytest.raises(NotIdentified):
        choose(ports, Source("10.0.0.5", ROUTER), {"s3"})


def test_r5_only_for_several():
    """R-5: one candidate stands, whatever its subnet."""
    assert choose([port()], Source("10.0.0.5", ROUTER), {"s2"}).id == "vm1"


def test_r5_not_for_macs():
    """R-5 is about addresses; the same MAC of two instances stays undecided (2.3)."""
    ports = [port(), port("p2", "vm2", subnet="s2")]
    with pytest.raises(NotIdentified):
        choose(ports, Source("fe80::f816:3eff:fe01:203", ROUTER), {"s1"})


def test_r6_several_ports_of_one_instance():
    """R-6: that is the instance."""
    assert choose([port(), port("p2")], Source("10.0.0.5", NETWORK)).id == "vm1"


@pytest.mark.parametrize("other", [{"device": "vm2"}, {"project": "t2"}])
def test_r6_several_instances(other, caplog):
    """R-6: never guess, and tell the operator the ports."""
    with pytest.raises(NotIdentified):
        choose([port(), port("p2", **other)], Source("10.0.0.5", NETWORK))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "p1, p2" in record.getMessage()


def test_r7_r8_wanted_mac():
    """R-7, R-8: the truth table of address and seen MAC."""
    seen, eui, private = "52:54:00:de:5b:bf", "fe80::5054:ff:fede:5bbf", "fe80::1234:5678:9abc:def0"
    assert wanted_mac(Source("10.0.0.5", NETWORK, seen)) is None
    assert wanted_mac(Source("2001:db8::5054:ff:fede:5bbf", NETWORK)) is None
    assert wanted_mac(Source(eui, NETWORK)) == seen
    assert wanted_mac(Source(eui, NETWORK, seen)) == seen
    assert wanted_mac(Source(private, NETWORK, seen)) == seen
    with pytest.raises(NotIdentified, match="EUI-64"):
        wanted_mac(Source(private, NETWORK))


def test_r8_contradiction():
    """R-8: both there and different is a contradiction, which the filter logs as a warning."""
    with pytest.raises(Contradiction, match="52:54:00:00:00:01 sent it"):
        wanted_mac(Source("fe80::5054:ff:fede:5bbf", NETWORK, "52:54:00:00:00:01"))


@given(st.binary(min_size=6, max_size=6))
def test_r7_every_mac_survives_eui64(octets):
    """R-7: from MAC to address by the rule of the RFC, and back."""
    eui = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    address = "fe80::" + ":".join(f"{eui[i]:02x}{eui[i + 1]:02x}" for i in range(0, 8, 2))
    assert mac_from_link_local(address) == octets.hex(":")


_ports = st.builds(
    Port,
    id=st.sampled_from(["p1", "p2", "p3"]),
    network_id=st.just("n1"),
    mac=st.sampled_from(["fa:16:3e:01:02:03", "fa:16:3e:01:02:04"]),
    device_id=st.sampled_from(["", "vm1", "vm2"]),
    device_owner=st.sampled_from(["", "compute:nova", "network:dhcp"]),
    project_id=st.sampled_from(["t1", "t2"]),
    fixed_ips=st.lists(
        st.tuples(st.sampled_from(["10.0.0.5", "10.0.0.6"]), st.sampled_from(["s1", "s2"])), max_size=2
    ).map(tuple),
)
_sources = st.sampled_from(["10.0.0.5", "10.0.0.6", "fe80::f816:3eff:fe01:203"])


@given(st.lists(_ports, max_size=6), _sources, st.none() | st.sets(st.sampled_from(["s1", "s2"])))
def test_r6_found_means_that_nothing_else_fits(ports, address, subnets):
    """R-6: an answer is one of the ports given, a guest's, and with the source's address or MAC."""
    source = Source(address, NETWORK)
    try:
        found = choose(ports, source, subnets)
    except NotIdentified:
        return
    mac = wanted_mac(source)
    fitting = [
        p
        for p in ports
        if p.device_id
        and not p.device_owner.startswith("network:")
        and (p.mac == mac if mac else any(fixed == address for fixed, _ in p.fixed_ips))
    ]
    assert (found.id, found.project_id) in {(p.device_id, p.project_id) for p in fitting}
    if subnets is None or mac:
        assert len({(p.device_id, p.project_id) for p in fitting}) == 1
