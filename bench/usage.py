"""Who used the processors: the bench, or others whose work makes its figures worse than they are."""

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
    """Processor seconds so far: of the whole machine, and of the bench with all that it has run."""

    at: float
    machine: float
    bench: float

    @classmethod
    def now(cls, still_running: Sequence[int]) -> "Usage":
        """The usage now; what has not ended yet is not ours by itself, and has to be named."""
        ours = sum(
            _seconds(resource.getrusage(who)) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return cls(time.monotonic(), _machine(), ours + sum(map(_process, still_running)))

    def others_since(self, before: "Usage") -> float:
        """The share of the machine that others used since `before`, 0 to 1."""
        others = (self.machine - before.machine) - (self.bench - before.bench)
        return max(0.0, others / (self.at - before.at) / (os.cpu_count() or 1))


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
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
