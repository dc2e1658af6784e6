"""Addresses of upstreams, as an operator writes them (spec 3.4, 5.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw.upstream.address import Address, parse_address


def parse(text):
    return parse_address(text, "http", 8775)


@pytest.mark.parametrize(
    ("text", "address", "authority"),
    [
        ("nova.example", Address("http", "nova.example", 8775), "nova.example:8775"),
        ("nova.example:80", Address("http", "nova.example", 80), "nova.example:80"),
        (" 10.0.0.1 ", Address("http", "10.0.0.1", 8775), "10.0.0.1:8775"),
        ("10.0.0.1:65535", Address("http", "10.0.0.1", 65535), "10.0.0.1:65535"),
        ("[::1]:1", Address("http", "::1", 1), "[::1]:1"),
        ("[2001:db8::1]", Address("http", "2001:db8::1", 8775), "[2001:db8::1]:8775"),
        ("2001:db8::1", Address("http", "2001:db8::1", 8775), "[2001:db8::1]:8775"),
        ("unix:/run/a b", Address("unix", path="/run/a b"), "169.254.169.254"),
    ],
)
def test_good(text, address, authority):
    """LP#1796593: IPv6 literals are bracketed in the authority; H2 has a dummy (spec 1.1)."""
    assert parse(text) == address
    assert parse(text).authority == authority


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", ":", "a b", "host:\uff18\uff10"],
        *[
            ":80",
            "host:",
            "host:0",
            "host:65536",
            "host:999999",
            "host:-1",
            "host:http",
            "host:80:90",
            "1:2:3",
        ],
        *["http://host", "host/path", "user@host", "[::1", "::1]", "[::1]:", "[]", "[]:80", "[host]:80"],
        *["unix:", "unix:relative", "unix:./x"],
        "unix:/" + "x" * 108,
    ],
)
def test_bad_says_what_is_allowed(text):
    with pytest.raises(ValueError, match=r"allowed|absolute|longer") as error:
        parse(text)
    assert "\n" not in str(error.value)


@given(st.text(max_size=40))
def test_anything_else_is_an_address_or_a_value_error(text):
    try:
        address = parse(text)
    except ValueError:
        return
    assert address.scheme == "unix" or 0 < address.port < 65536
    assert not any(character.isspace() for character in address.host)


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_ipv6_round_trip(ip, port):
    address = Address("http", str(ip), port)
    assert parse_address(address.authority, "http", 1) == address
