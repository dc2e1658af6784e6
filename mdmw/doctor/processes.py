"""Processes as /proc shows them: who they are, which sockets they hold, how many files they may open."""

import contextlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """`state` is the letter of proc(5): T is stopped, Z has ended. `groups` has the group too."""

    pid: int
    argv: tuple[str, ...]
    state: str
    parent: int
    uid: int
    groups: frozenset[int]

    @property
    def name(self) -> str:
        """The program, for people; of Python what it runs."""
        program, *words = (*self.argv, "")
        name = Path(program.split(" ")[0]).name
        if not name.startswith("python"):
            return name
        module = words[words.index("-m") + 1] if "-m" in words else words[0]
        return name if module.startswith("-") else Path(module).name or name

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    def mentions(self, word: str) -> bool:
        """Whether its command line does."""
        return any(word in argument for argument in self.argv)


def process(pid: int) -> Process | None:
    """None when there is none any more."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return None
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    gids = (fields["Gid"][1], *fields["Groups"])
    return Process(
        pid,
        tuple(raw.rstrip(b"\0").decode(errors="replace").split("\0")) if raw else tuple(fields["Name"]),
        fields["State"][0],
        int(fields["PPid"][0]),
        int(fields["Uid"][1]),
        frozenset(map(int, gids)),
    )


def children(pid: int) -> list[Process]:
    """Those of all its threads."""
    found: list[Process] = []
    for path in (_PROC / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += filter(None, map(process, map(int, path.read_text().split())))
    return found


def holders(inodes: Collection[int]) -> dict[int, list[Process]]:
    """Inode of a socket -> the processes that have it open. One look at every process of this host."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, list[Process]] = {inode: [] for inode in inodes}
    for name in os.listdir(_PROC) if wanted else ():  # noqa: PTH208 - a Path for each takes twice the time
        held = wanted.keys() & _targets(f"{_PROC}/{name}/fd") if name.isdecimal() else ()
        who = process(int(name)) if held else None
        for target in held:
            found[wanted[target]] += [who] if who else []
    return found


def files(pid: int) -> tuple[int, int] | None:
    """How many a process has open, and how many it may; None when it is gone."""
    try:
        used = len(list((_PROC / str(pid) / "fd").iterdir()))
        lines = (_PROC / str(pid) / "limits").read_text().splitlines()
    except OSError:
        return None
    words = next(line for line in lines if line.startswith("Max open files")).split()
    return (used, int(words[3])) if words[3].isdecimal() else None


def _targets(directory: str) -> set[str]:
    """What the descriptors of a process lead to."""
    found = set()
    with contextlib.suppress(OSError):  # it has ended
        for name in os.listdir(directory):  # noqa: PTH208 - as above
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"{directory}/{name}"))  # noqa: PTH115 - as above
    return found


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
