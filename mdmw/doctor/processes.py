"""Processes as /proc shows them: who they are, which sockets they hold, how many files they may open."""

import contextlib
import os
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
