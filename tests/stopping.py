"""SIGSTOP, and the moment from which it holds."""

import os
import signal
import time
from pathlib import Path


def stop(pid: int) -> None:
    """Return when the process does nothing any more: its threads may go on for a moment after the signal."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while not all(_is_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.001)  # the interval of the loop; the kernel tells only a parent


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
