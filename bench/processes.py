"""Processes of one path: started, waited for, weighed, stopped."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

_READY_WITHIN = 20.0
_STOPPED_WITHIN = 5.0
_LOOK_EVERY = 0.02


class NotReady(Exception):
    """A server ended, did not accept in time, or does not answer as it should."""


@contextlib.contextmanager
def running(
    command: Sequence[str],
    accepts: Callable[[], bool],
    log: Path,
    env: Mapping[str, str] | None = None,
    *,
    directory: Path | None = None,
    ready_within: float = _READY_WITHIN,
    stopped_within: float = _STOPPED_WITHIN,
) -> Iterator[int]:
    """Start `command`, wait until it `accepts`, yield its process id, and end it and its children."""
    with log.open("ab") as output, _started(command, output, env, directory, stopped_within) as process:
        deadline = time.monotonic() + ready_within
        while not accepts():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_EVERY)
                raise NotReady(f"a server ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise NotReady(f"a server does not accept after {ready_within:.0f} s")
        yield process.pid


def accepts_unix(path: Path) -> bool:
    """Whether somebody listens on the unix socket `path`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_LOOK_EVERY)
        return client.connect_ex(str(path)) == 0


def accepts_tcp(address: str, port: int) -> bool:
    """Whether somebody listens on `address` and `port` in the namespace of this thread."""
    with socket.socket(socket.AF_INET) as client:
        client.settimeout(_LOOK_EVERY)
        return client.connect_ex((address, port)) == 0


def memory(pids: Sequence[int]) -> int:
    """Bytes of proportional set size of `pids` and all their descendants."""
    return sum(_pss(pid) for root in pids for pid in _family(root))


@contextlib.contextmanager
def _started(
    command: Sequence[str],
    output: IO[bytes],
    env: Mapping[str, str] | None,
    directory: Path | None,
    stopped_within: float,
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(stopped_within)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: only what it started
        process.wait()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
