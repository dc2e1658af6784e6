"""Who used the processors: the bench, or others whose work makes its figures worse than they are."""

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Seconds of the clock, and of processors: by the whole machine, and by the bench with all it has run."""

    clock: float = 0.0
    machine: float = 0.0
    bench: float = 0.0

    @classmethod
    def now(cls, still_running: Sequence[int]) -> "Usage":
        """All so far; what has not ended yet is not ours by itself, and has to be named."""
        ours = sum(
            _seconds(resource.getrusage(who)) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return cls(time.monotonic(), _machine(), ours + sum(map(_process, still_running)))

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.clock + other.clock, self.machine + other.machine, self.bench + other.bench)

    def __sub__(self, before: "Usage") -> "Usage":
        return Usage(self.clock - before.clock, self.machine - before.machine, self.bench - before.bench)

    def others(self) -> float:
        """The share of the machine that others had of this, 0 to 1."""
        return max(0.0, (self.machine - self.bench) / self.clock / (os.cpu_count() or 1))


def pids_in(namespace: str) -> list[int]:
    """All processes in a network namespace."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], stdout=subprocess.PIPE, text=True, check=True)
    return [int(pid) for pid in listed.stdout.split()]


def _seconds(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def _machine() -> float:
    """All but idle, waiting for disks, and what is counted twice (guest) or is not ours (steal)."""
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, ticks[:7])
    return (user + nice + system + irq + softirq) / _TICK


def _process(pid: int) -> float:
    """Its own, and that of its children that have ended: a worker may, between two looks."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICK
    return 0.0
