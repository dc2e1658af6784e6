"""The values that travel between filters in the WSGI environ.

`Source` says who asks, `Instance` which instance that is, and a `Proof` is one
set of headers that convinces Nova of it. Plain values: no I/O, no HTTP.
"""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from mdmw.errors import BadRequest

#: Environ keys. A header can never have such a name, so a guest cannot write them.
SOURCE = "mdmw.source"
INSTANCE = "mdmw.instance"
PROOFS = "mdmw.proofs"
JOURNAL = "mdmw.journal"  # a mdmw.observe.journal.Journal, where a filter observes
#: OpenStack's own keys, which oslo.log shows; the second one is only there when a trusted hop named an id.
OPENSTACK_REQUEST_ID = "openstack.request_id"
GLOBAL_REQUEST_ID = "openstack.global_request_id"

#: One set of (name, value) request headers that proves an identity to Nova.
Proof = tuple[tuple[str, str], ...]

#: What a WSGI server hands over with each request.
Environ = dict[str, Any]

METADATA_ADDRESS = "169.254.169.254"
METADATA_ADDRESS_V6 = "fe80::a9fe:a9fe"

# The metadata address itself in both versions, and broadcast.
_NOBODY = frozenset({METADATA_ADDRESS, METADATA_ADDRESS_V6, "255.255.255.255"})

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_EUI64_MIDDLE = b"\xff\xfe"
_UNIVERSAL_LOCAL_BIT = 0x02


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an address is meaningful: one network, or one router and what hangs off it."""

    kind: Literal["network", "router"]
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


@dataclass(frozen=True, slots=True)
class Source:
    """Who asks: a normalised address within a scope, and the MAC if somebody saw it.

    `forwarded`: the guest's request had an X-Forwarded-For, so somebody on the
    guest passes on requests of others; session tokens are not for them (spec 7.6).
    """

    address: str
    scope: Scope
    mac: str | None = None
    forwarded: bool = False

    def __str__(self) -> str:
        return f"{self.address} in {self.scope}"


@dataclass(frozen=True, slots=True)
class Instance:
    """The instance behind a source; `port_id` is the port through which it was found."""

    id: str
    project_id: str
    port_id: str


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in the form with four dashes, either case."""
    return _UUID.fullmatch(text) is not None


def normalise_mac(text: str) -> str:
    """`52-54-00-DE-5B-BF` or with colons -> `52:54:00:de:5b:bf`; ValueError otherwise."""
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise ValueError(f"{text!r} is not a MAC address")
    return mac


@lru_cache(maxsize=8192)
def normalise_address(text: str) -> str:
    """The one spelling of a source address (spec 1.3).

    IPv4-mapped IPv6 becomes IPv4, a zone is cut off, IPv6 is compressed and
    lower-case. Raises `BadRequest` for what no guest can have as its address.
    """
    address, zone, _ = text.partition("%")
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        raise BadRequest(f"source address {text!r} is not an IP address") from None
    if zone and ip.version == 4:
        raise BadRequest(f"source address {text!r} has a zone, which only IPv6 has")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    normal = str(ip)
    if ip.is_loopback or ip.is_unspecified or ip.is_multicast or normal in _NOBODY:
        raise BadRequest(f"source address {text!r} cannot be a guest's")
    return normal


@lru_cache(maxsize=8192)
def is_link_local_v6(address: str) -> bool:
    """Whether a normalised address is in fe80::/10, which Neutron does not know as a fixed IP."""
    ip = ipaddress.ip_address(address)
    return ip.version == 6 and ip.is_link_local


def mac_from_link_local(address: str) -> str | None:
    """MAC of an EUI-64 link-local address, or None when it is of another kind (R-7, R-8)."""
    packed = ipaddress.IPv6Address(address).packed
    if packed[11:13] != _EUI64_MIDDLE:
        return None
    octets = bytes([packed[8] ^ _UNIVERSAL_LOCAL_BIT]) + packed[9:11] + packed[13:16]
    return octets.hex(":")
