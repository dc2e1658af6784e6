"""Reads devices, addresses, routes and sysctls in the namespace of the calling thread.

`inside` runs a function in another namespace. All functions raise OSError.
"""

import errno
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from mdmw.netlink import ask, attribute, attributes, dump
from mdmw.node.namespaces import RUN_NETNS, enter

T = TypeVar("T")

_OWN = Path("/proc/self/ns/net")
SYSCTLS = Path("/proc/sys/net")
# linux/rtnetlink.h, if_link.h, if_addr.h, if.h
_GET_LINK, _GET_ADDRESS, _GET_ROUTE = 18, 22, 26
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_LINK_MAC, _LINK_NAME, _LINK_MTU, _LINK_MASTER = 1, 3, 4, 10
_UP = 0x1
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ADDRESS_PEER, _ADDRESS_LOCAL = 1, 2
_TENTATIVE, _DAD_FAILED = 0x40, 0x08
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths of destination and source, tos, table, protocol ...
_ROUTE_DEVICE, _ROUTE_GATEWAY = 4, 5
_FAMILIES = (socket.AF_INET, socket.AF_INET6)  # the kernel has other families too
_MAIN_TABLE = 254
_ANNOUNCED = 9  # RTPROT_RA
_NUMBER = struct.Struct("=I")

State = Literal["ready", "tentative", "duplicate"]


@dataclass(frozen=True, slots=True)
class DeviceAddress:
    """An address with prefix length. `state` is the result of duplicate address detection."""

    text: str
    state: State = "ready"


@dataclass(frozen=True, slots=True)
class NetworkDevice:
    """A device. `addresses` are in the order of the kernel. `bridge` names the bridge it is a port of."""

    name: str
    mac: str = ""
    mtu: int = 1500
    up: bool = True
    bridge: str | None = None
    addresses: tuple[DeviceAddress, ...] = ()


def is_namespace(namespace: str) -> bool:
    """Whether the name leads to a namespace. After a crash in the middle of `ip netns add` it does not."""
    try:
        return (RUN_NETNS / namespace).stat().st_dev == _OWN.stat().st_dev
    except OSError:
        return False


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Call `work` in a named namespace, in a new thread; returns what `work` returns, and raises the same."""

    def enter_and_work() -> T:
        enter(namespace)
        return work()

    with ThreadPoolExecutor(1) as thread:  # the thread cannot come back, so it ends
        return thread.submit(enter_and_work).result()


def devices() -> dict[str, NetworkDevice]:
    """All devices of the namespace, by name."""
    links = dict(_route_dump(_GET_LINK, _LINK.size, _link))
    found: dict[int, list[DeviceAddress]] = {}
    for index, address in filter(None, _route_dump(_GET_ADDRESS, _ADDRESS.size, _address)):
        found.setdefault(index, []).append(address)
    return {
        link.name: NetworkDevice(
            link.name,
            link.mac,
            link.mtu,
            link.up,
            links[link.master].name if link.master in links else None,
            tuple(found.get(index, ())),
        )
        for index, link in links.items()
    }


def read_device(name: str) -> NetworkDevice | None:
    """The device with this name, without its addresses; None when there is none."""
    body = bytes(_LINK.size) + attribute(_LINK_NAME, name.encode() + b"\0")
    try:
        _, link = _link(ask(socket.NETLINK_ROUTE, _GET_LINK, body))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    if link.name != name:  # the kernel found the device by an alternative name
        return None
    bridge = socket.if_indextoname(link.master) if link.master else None
    return NetworkDevice(link.name, link.mac, link.mtu, link.up, bridge)


def default_routes() -> frozenset[tuple[str, str]]:
    """Pairs of device and gateway from the main table, without routes that a router announced."""
    found = filter(None, _route_dump(_GET_ROUTE, _ROUTE.size, _default_route))
    return frozenset((socket.if_indextoname(index), gateway) for index, gateway in found)


def sysctl(name: str) -> str | None:
    """A value below /proc/sys/net; None when the kernel has no such value."""
    try:
        return (SYSCTLS / name).read_text().strip()
    except FileNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    mac: str
    mtu: int
    up: bool
    master: int


def _route_dump(kind: int, size: int, parse: Callable[[bytes], T]) -> list[T]:
    return dump(socket.NETLINK_ROUTE, kind, bytes(size), parse)


def _link(body: bytes) -> tuple[int, _Link]:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body, _LINK.size)
    name = found[_LINK_NAME].rstrip(b"\0").decode(errors="replace")
    mac = found.get(_LINK_MAC, b"").hex(":")
    return index, _Link(name, mac, _number(found, _LINK_MTU), bool(flags & _UP), _number(found, _LINK_MASTER))


def _address(body: bytes) -> tuple[int, DeviceAddress] | None:
    family, length, flags, _, index = _ADDRESS.unpack_from(body)
    if family not in _FAMILIES:
        return None
    found = attributes(body, _ADDRESS.size)
    address = socket.inet_ntop(family, found.get(_ADDRESS_LOCAL) or found[_ADDRESS_PEER])
    return index, DeviceAddress(f"{address}/{length}", _state(flags))


def _state(flags: int) -> State:
    if flags & _DAD_FAILED:
        return "duplicate"
    return "tentative" if flags & _TENTATIVE else "ready"


def _default_route(body: bytes) -> tuple[int, str] | None:
    family, length, _, _, table, protocol, *_ = _ROUTE.unpack_from(body)
    if length or table != _MAIN_TABLE or protocol == _ANNOUNCED or family not in _FAMILIES:
        return None
    found = attributes(body, _ROUTE.size)
    gateway = found.get(_ROUTE_GATEWAY)
    return (_number(found, _ROUTE_DEVICE), socket.inet_ntop(family, gateway)) if gateway else None


def _number(found: dict[int, bytes], kind: int) -> int:
    """The number in an attribute; 0 without the attribute."""
    number: int = _NUMBER.unpack(found.get(kind, bytes(_NUMBER.size)))[0]
    return number
