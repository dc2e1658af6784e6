"""The kernel's neighbour table of this network namespace: which MAC has an address (R-8)."""

import ipaddress
import socket
import struct

# linux/rtnetlink.h, linux/neighbour.h
_RTM_GETNEIGH = 30
_RTM_NEWNEIGH = 28
_NLM_F_REQUEST_DUMP = 0x301
_NDA_DST = 1
_NDA_LLADDR = 2
_MESSAGE = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=BBHiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER = 64 * 1024
_TIMEOUT = 1.0
_MAC_BYTES = 6


def neighbour_mac(address: str) -> str | None:
    """The MAC of a neighbour, from whose packets the kernel learnt it; None if it is not known.

    None too when several devices know the address with different MACs. Raises OSError.
    """
    wanted = ipaddress.ip_address(address)
    family = socket.AF_INET6 if wanted.version == 6 else socket.AF_INET
    found = {mac for dst, mac in _table(family) if dst == wanted.packed}
    return found.pop().hex(":") if len(found) == 1 else None


def _table(family: int) -> list[tuple[bytes, bytes]]:
    body = _NEIGHBOUR.pack(family, 0, 0, 0, 0, 0, 0)
    request = _MESSAGE.pack(_MESSAGE.size + len(body), _RTM_GETNEIGH, _NLM_F_REQUEST_DUMP, 1, 0) + body
    entries: list[tuple[bytes, bytes]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT)
        sock.bind((0, 0))
        sock.send(request)
        while True:
            data = sock.recv(_BUFFER)
            while data:
                length, kind, *_ = _MESSAGE.unpack_from(data)
                if kind != _RTM_NEWNEIGH:  # NLMSG_DONE, or an error
                    return entries
                entry = _attributes(data[_MESSAGE.size + _NEIGHBOUR.size : length])
                if len(entry.get(_NDA_LLADDR, b"")) == _MAC_BYTES and _NDA_DST in entry:
                    entries.append((entry[_NDA_DST], entry[_NDA_LLADDR]))
                data = data[_aligned(length) :]


def _attributes(data: bytes) -> dict[int, bytes]:
    attributes = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        attributes[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return attributes


def _aligned(length: int) -> int:
    return (length + 3) & ~3
