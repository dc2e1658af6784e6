"""The kernel's neighbour table of this network namespace: which MAC has an address (R-8)."""

import ipaddress
import socket
import struct

# linux/rtnetlink.h, linux/neighbour.h
_RTM_GETNEIGH = 30
_RTM_NEWNEIGH = 28
_NLM_F_REQUEST = 1
_NDA_DST = 1
_NDA_LLADDR = 2
_MESSAGE = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=BBHiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER = 4096
_TIMEOUT = 1.0
_MAC_BYTES = 6


def neighbour_mac(address: str) -> str | None:
    """The MAC of a neighbour, from whose packets the kernel learnt it; None if it is not known.

    None too when several devices know the address with different MACs. Raises OSError.
    """
    wanted = ipaddress.ip_address(address)
    family = socket.AF_INET6 if wanted.version == 6 else socket.AF_INET
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT)
        sock.bind((0, 0))
        macs = {_ask(sock, family, device, wanted.packed) for device, _ in socket.if_nameindex()} - {None}
    return macs.pop() if len(macs) == 1 else None


def _ask(sock: socket.socket, family: int, device: int, address: bytes) -> str | None:
    """One entry of one device; asking for it costs the same however many neighbours there are."""
    body = _NEIGHBOUR.pack(family, 0, 0, device, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address), _NDA_DST) + address
    sock.send(_MESSAGE.pack(_MESSAGE.size + len(body), _RTM_GETNEIGH, _NLM_F_REQUEST, 1, 0) + body)
    data = sock.recv(_BUFFER)
    length, kind, *_ = _MESSAGE.unpack_from(data)
    if kind != _RTM_NEWNEIGH:  # an error: there is none
        return None
    mac = _attributes(data[_MESSAGE.size + _NEIGHBOUR.size : length]).get(_NDA_LLADDR, b"")
    return mac.hex(":") if len(mac) == _MAC_BYTES else None


def _attributes(data: bytes) -> dict[int, bytes]:
    attributes = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        attributes[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return attributes


def _aligned(length: int) -> int:
    return (length + 3) & ~3
