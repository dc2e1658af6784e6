"""The kernel's tables of sockets, of the network namespace of the calling thread; and who may connect."""

import os
import socket
import stat
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_NET = Path("/proc/thread-self/net")
_TABLES = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6}
_LISTEN = "0A"  # include/net/tcp_states.h
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what is compared with


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening TCP socket; `waiting` is how many connections nobody has accepted yet."""

    address: str
    port: int
    inode: int
    waiting: int

    def takes(self, address: str, port: int) -> bool:
        """Whether a connection to this address arrives here."""
        wide = self.address in _ANYWHERE and (self.address == "::" or ":" not in address)
        return self.port == port and (wide or self.address == address)


def listening() -> list[Listening]:
    """All of them."""
    found = []
    for table, family in _TABLES.items():
        try:
            lines = (_NET / table).read_text().splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for words in (line.split() for line in lines):
            if words[3] == _LISTEN:
                address, _, port = words[1].partition(":")
                waiting = int(words[4].partition(":")[2], 16)
                found.append(Listening(_address(family, address), int(port, 16), int(words[9]), waiting))
    return found


def overflows() -> int:
    """How many connections were refused because a backlog was full, since the namespace was made."""
    lines = [line.split() for line in (_NET / "netstat").read_text().splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        if "ListenOverflows" in names:
            return int(values[names.index("ListenOverflows")])
    return 0


def obstacle(path: Path, uid: int, groups: Collection[int]) -> str:
    """Why a user may not connect to a unix socket: one line; empty when it may. Raises OSError.

    To connect one needs the right to write to the socket, and to search each directory above.
    """
    if uid == 0:
        return ""
    for directory in reversed(path.parents):
        if not _may(directory.stat(), uid, groups, stat.S_IXOTH):
            return f"it may not enter {directory}, {_described(directory.stat())}"
    return "" if _may(path.stat(), uid, groups, stat.S_IWOTH) else f"{path} is {_described(path.stat())}"


def _may(of: os.stat_result, uid: int, groups: Collection[int], bit: int) -> bool:
    shift = 6 if of.st_uid == uid else 3 if of.st_gid in groups else 0
    return bool(of.st_mode & (bit << shift))


def _described(of: os.stat_result) -> str:
    return f"{stat.S_IMODE(of.st_mode):04o} of user {of.st_uid}, group {of.st_gid}"


def _address(family: int, text: str) -> str:
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    order = "<" if sys.byteorder == "little" else ">"
    return socket.inet_ntop(family, struct.pack(f"{order}{len(words)}I", *words))
