"""Source addresses, MACs and UUIDs: one spelling each, and nothing that cannot be (spec 1.3, 2.4)."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw.errors import BadRequest
from mdmw.records import (
    Instance,
    Scope,
    Source,
    is_link_local_v6,
    is_uuid,
    mac_from_link_local,
    normalise_address,
    normalise_mac,
)

NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"


@pytest.mark.parametrize(
    ("received", "normal"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("::FFFF:a00:5", "10.0.0.5"),
        ("0:0:0:0:0:ffff:10.0.0.5", "10.0.0.5"),
        ("fe80::5054:ff:fede:5bbf", "fe80::5054:ff:fede:5bbf"),
        ("fe80::5054:ff:fede:5bbf%eth0", "fe80::5054:ff:fede:5bbf"),
        ("FE80:0:0:0:5054:00FF:FEDE:5BBF%2", "fe80::5054:ff:fede:5bbf"),
        ("2001:DB8:0::5", "2001:db8::5"),
        ("fd00::1", "fd00::1"),
        ("169.254.169.253", "169.254.169.253"),
    ],
)
def test_every_row_of_the_table(received, normal):
    """1.3: mapped addresses are IPv4, zones are cut off, IPv6 is compressed and lower-case."""
    assert normalise_address(received) == normal


@pytest.mark.parametrize(
    "received",
    [
        *[
            "",
            " ",
            "x",
            "localhost",
            "10.0.0",
            "10.0.0.5.6",
            "010.0.0.5",
            "10.0.0.256",
            "10.0.0.5/32",
            "0x0a000005",
        ],
        *[
            "1.2.3.4, 10.0.0.5",
            "10.0.0.5:80",
            "[fe80::1]",
            "10.0.0.5 ",
            " 10.0.0.5",
            "10.0.0.5\n",
            "fe80::1::2",
        ],
        *["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "224.0.0.1", "239.255.255.255", "ff02::1"],
        *[
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "255.255.255.255",
        ],
        *["10.0.0.5%eth0", "\u0661.1.1.1", "10.0.0.\u0665", "1.1.1.\xb2", "%eth0", "fe80::a9fe:a9fe"],
    ],
)
def test_what_no_guest_can_have(received):
    """1.3, last row."""
    with pytest.raises(BadRequest) as error:
        normalise_address(received)
    assert "\n" not in str(error.value)


@given(st.ip_addresses())
def test_an_address_is_its_own_normal_form(ip):
    try:
        normal = normalise_address(str(ip))
    except BadRequest:
        return
    assert normalise_address(normal) == normal
    mapped = getattr(ip, "ipv4_mapped", None)
    assert ipaddress.ip_address(normal) == (mapped or ip)


@given(st.ip_addresses(v=4))
def test_ipv4_and_its_mapped_form_are_equal(ip):
    """1.3: the same guest, whichever listener took it."""

    def outcome(text):
        try:
            return normalise_address(text)
        except BadRequest:
            return None

    assert outcome(str(ip)) == outcome(f"::ffff:{ip}")


@given(st.ip_addresses(v=6))
def test_every_spelling_of_ipv6_is_one_address(ip):
    try:
        normal = normalise_address(ip.compressed)
    except BadRequest:
        return
    assert normalise_address(ip.exploded.upper()) == normal
    assert normalise_address(f"{ip.exploded}%eth0") == normal


@given(st.text(max_size=50))
def test_any_text_is_an_address_or_a_bad_request(text):
    try:
        normal = normalise_address(text)
    except BadRequest:
        return
    assert normal.isascii()
    ipaddress.ip_address(normal)


# --- MACs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "mac"),
    [("fe80::f816:3eff:fe01:203", "fa:16:3e:01:02:03"), ("fe80::5054:ff:fede:5bbf", "52:54:00:de:5b:bf")],
)
def test_mac_of_a_link_local_address(address, mac):
    """R-7, with the examples of the rule."""
    assert mac_from_link_local(address) == mac


@pytest.mark.parametrize(
    "address", ["fe80::1234:5678:9abc:def0", "fe80::1", "fe80::ff:1:2", "fe80::ff:fd00:1"]
)
def test_no_mac_without_ff_fe(address):
    """R-8: a guessed MAC could be a stranger's."""
    assert mac_from_link_local(address) is None


@given(st.binary(min_size=6, max_size=6))
def test_mac_round_trip(mac):
    interface = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    address = ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + interface)
    assert mac_from_link_local(normalise_address(str(address))) == mac.hex(":")


@pytest.mark.parametrize("text", ["52:54:00:DE:5B:BF", "52-54-00-de-5b-bf", " 52:54:00:de:5b:bf "])
def test_macs_have_one_spelling(text):
    assert normalise_mac(text) == "52:54:00:de:5b:bf"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "52:54:00:de:5b",
        "52:54:00:de:5b:bf:00",
        "525400de5bbf",
        "52:54:00:de:5b:bg",
        "5254.00de.5bbf",
        "\u0665" * 17,
    ],
)
def test_what_is_no_mac(text):
    with pytest.raises(ValueError, match="is not a MAC address"):
        normalise_mac(text)


@given(st.text(max_size=20))
def test_any_text_is_a_mac_or_a_value_error(text):
    try:
        mac = normalise_mac(text)
    except ValueError:
        return
    assert len(bytes.fromhex(mac.replace(":", ""))) == 6


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *[("fe80::1", True), ("febf::1", True)],
        *[("fec0::1", False), ("2001:db8::1", False), ("169.254.1.1", False), ("10.0.0.5", False)],
    ],
)
def test_link_local_v6(address, expected):
    assert is_link_local_v6(address) is expected


# --- UUIDs ------------------------------------------------------------------------------


@given(st.uuids())
def test_uuids(value):
    assert is_uuid(str(value))
    assert is_uuid(str(value).upper())


@given(st.uuids(), st.sampled_from(["\n", " ", "0", "-", "", "\u0660"]))
def test_what_is_no_uuid(value, more):
    text = str(value)
    assert not is_uuid(value.hex)
    assert not is_uuid("{" + text + "}")
    assert not is_uuid(f"urn:uuid:{text}")
    assert not is_uuid(text[:-1] + more.replace("0", ""))
    assert not more or not is_uuid(text + more)
    assert not more or not is_uuid(more + text)


def test_records_are_values():
    """They can be keys, and nobody changes one that another filter holds."""
    scope = Scope("network", NETWORK)
    assert Source("10.0.0.5", scope) == Source("10.0.0.5", Scope("network", NETWORK))
    assert Source("10.0.0.5", scope) != Source("10.0.0.5", Scope("router", NETWORK))
    assert len({Instance("a", "b", "c"), Instance("a", "b", "c")}) == 1
    for record, name in (
        (scope, "id"),
        (Source("10.0.0.5", scope), "address"),
        (Instance("a", "b", "c"), "id"),
    ):
        with pytest.raises(AttributeError):
            setattr(record, name, "other")


def test_a_source_describes_itself():
    assert str(Source("10.0.0.5", Scope("network", NETWORK))) == f"10.0.0.5 in network {NETWORK}"
