"""What /proc says about processes and sockets: who a process is, and which sockets and files it has open."""

import contextlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mdmw.identity import peer_credentials

_PROC = Path("/proc")
_NET = Path("/proc/thread-self/net")
_TABLES = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6}
_LISTEN = "0A"  # include/net/tcp_states.h
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - only compared with


@dataclass(frozen=True, slots=True)
class Process:
    """A process. `state` is the letter of proc(5): T is stopped, Z has ended.

    `groups` has the supplementary groups and the effective group.
    """

    pid: int
    argv: tuple[str, ...]
    state: str
    parent: int
    uid: int
    groups: frozenset[int]

    @property
    def name(self) -> str:
        """Name of the program; of a Python process, name of the script or module that Python runs."""
        program, *words = (*self.argv, "")
        name = Path(program.split(" ")[0]).name
        if not name.startswith("python"):
            return name
        module = words[words.index("-m") + 1] if "-m" in words else words[0]
        return name if module.startswith("-") else Path(module).name or name

    @property
    def is_stopped(self) -> bool:
        """Whether a signal has stopped the process (SIGSTOP)."""
        return self.state == "T"

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    def mentions(self, word: str) -> bool:
        """Whether the command line contains `word`."""
        return any(word in argument for argument in self.argv)


def read_process(pid: int) -> Process | None:
    """The process, or None if the process does not exist any more."""
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
    """The child processes of all threads of a process."""
    found: list[Process] = []
    for path in (_PROC / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += filter(None, map(read_process, map(int, path.read_text().split())))
    return found


def open_files(pid: int) -> tuple[int, int] | None:
    """Number of files that a process has open, and the most it may open; None if the process has ended."""
    try:
        used = len(list((_PROC / str(pid) / "fd").iterdir()))
        lines = (_PROC / str(pid) / "limits").read_text().splitlines()
    except OSError:
        return None
    words = next(line for line in lines if line.startswith("Max open files")).split()
    return (used, int(words[3])) if words[3].isdecimal() else None


# --- TCP sockets ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A listening TCP socket; `waiting` is the number of connections that no process has accepted yet."""

    address: str
    port: int
    inode: int
    waiting: int

    def takes(self, address: str, port: int) -> bool:
        """Whether a connection to this address arrives at this socket."""
        is_any = self.address in _ANY_ADDRESS and (self.address == "::" or ":" not in address)
        return self.port == port and (is_any or self.address == address)


def listening_sockets() -> list[ListeningSocket]:
    """The listening TCP sockets of the namespace of this thread."""
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
                inode = int(words[9])
                found.append(ListeningSocket(_address(family, address), int(port, 16), inode, waiting))
    return found


def socket_holders(inodes: Collection[int]) -> dict[int, list[Process]]:
    """Inode of a socket -> the processes that have the socket open. Reads every process of the host once."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, list[Process]] = {inode: [] for inode in inodes}
    for name in os.listdir(_PROC) if links else ():  # noqa: PTH208 - a Path for each takes twice the time
        held = links.keys() & _open_links(f"{_PROC}/{name}/fd") if name.isdecimal() else ()
        process = read_process(int(name)) if held else None
        for link in held:
            found[links[link]] += [process] if process else []
    return found


def refused_connections() -> int:
    """Connections that the kernel refused for a full backlog, since the namespace of this thread exists."""
    lines = [line.split() for line in (_NET / "netstat").read_text().splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        if "ListenOverflows" in names:
            return int(values[names.index("ListenOverflows")])
    return 0


def _open_links(directory: str) -> set[str]:
    """What the descriptors of a process point at."""
    found = set()
    with contextlib.suppress(OSError):  # the process has ended
        for name in os.listdir(directory):  # noqa: PTH208 - as above
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"{directory}/{name}"))  # noqa: PTH115 - as above
    return found


def _address(family: int, text: str) -> str:
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    order = "<" if sys.byteorder == "little" else ">"
    return socket.inet_ntop(family, struct.pack(f"{order}{len(words)}I", *words))


# --- unix sockets -----------------------------------------------------------------------


def listening_process(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> Process | None:
    """The process that listens at a unix socket, even if it does not accept; None without a listener."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.connect(str(path))
            return read_process(peer_credentials(sock).pid)
    return None


def connect_obstacle(path: Path, uid: int, groups: Collection[int]) -> str:
    """Why a user may not connect to a unix socket: one line; empty if the user may. Raises OSError.

    To connect, the user needs write permission for the socket and search permission for each directory above.
    """
    if uid == 0:
        return ""
    for directory in reversed(path.parents):
        if not _may(directory.stat(), uid, groups, stat.S_IXOTH):
            return f"the user may not enter {directory}, which has {_permissions(directory.stat())}"
    if _may(path.stat(), uid, groups, stat.S_IWOTH):
        return ""
    return f"the socket has {_permissions(path.stat())}"


def _may(status: os.stat_result, uid: int, groups: Collection[int], bit: int) -> bool:
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return bool(status.st_mode & (bit << shift))


def _permissions(status: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(status.st_mode):04o}, user {status.st_uid}, group {status.st_gid}"
