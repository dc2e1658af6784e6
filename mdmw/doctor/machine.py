"""What all of the node has in common: mdmw-node itself, room on disks, limits of processes."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdmw.doctor.deployment import Asked, Daemon
from mdmw.doctor.findings import Finding
from mdmw.doctor.listeners import workers
from mdmw.doctor.processes import Process, files
from mdmw.node import namespaces

_LEAST_BYTES = 1024 * 1024
_NEARLY = 0.9  # of the files that a process may open
_LEAST_FILES = 1024  # for whom guests or proxies connect to


def of_daemon(node: Daemon, asked: Asked) -> Iterator[Finding]:
    """mdmw-node and its workers."""
    where = str(asked.control)
    restart = ("systemctl restart mdmw-node", "journalctl -u mdmw-node -n 20")
    if node.state == "down":
        yield Finding("node-down", where, "mdmw-node does not run", "nobody listens at its socket", restart)
    if node.state == "hung":
        who = str(node.process) if node.process else "mdmw-node"
        is_stopped = node.process is not None and node.process.state == "T"
        mend = (f"kill -CONT {node.process.pid}",) if is_stopped and node.process else restart
        what = f"{who} does not answer{', it is stopped' if is_stopped else ''}"
        yield Finding("node-hung", where, what, "its control socket says nothing", mend)
    if node.state != "serves":
        return
    serving = workers(node)
    if not serving:
        yield Finding("workers-missing", where, "mdmw-node has no workers", "mdmw node status", restart)
    for worker in serving:
        if worker.state == "T":
            what = f"the worker {worker.pid} of mdmw-node is stopped: guests whom it has accepted wait"
            mend = (f"kill -CONT {worker.pid}",)
            yield Finding("worker-stopped", where, what, f"/proc/{worker.pid}/status: State: T", mend)
    for problem in node.problems:
        space = problem.partition(":")[0]
        mend = ("journalctl -u mdmw-node -n 20",)
        of = space if space in namespaces.names() else ""
        yield Finding("node-problem", where, problem, "mdmw node status", mend, of)


def disks(directories: Iterable[Path]) -> Iterator[Finding]:
    """Those of the directories that are there and have no room."""
    for directory in directories:
        try:
            there = os.statvfs(directory)
        except OSError:
            continue
        room = there.f_bavail * there.f_frsize
        is_without_files = there.f_files and not there.f_favail
        if room < _LEAST_BYTES or is_without_files:
            what = "no file can be made there" if is_without_files else f"{room // 1024} KiB are left there"
            how = f"df {'-i ' if is_without_files else ''}{directory}"
            yield Finding("disk-full", str(directory), what, how, (f"du -xah {directory} | sort -h | tail",))


def limits(processes: Iterable[Process]) -> Iterator[Finding]:
    """Processes that cannot open the files that guests' connections need."""
    for process in processes:
        found = files(process.pid)
        if found is None:
            continue
        used, most = found
        if used >= _NEARLY * most or most < _LEAST_FILES:
            what = f"{process} has {used} files open and may have {most}"
            mend = (
                f"prlimit --pid {process.pid} --nofile=65536",
                "# and for the next start, in its unit: LimitNOFILE=65536",
            )
            yield Finding("file-limit", str(process), what, f"grep files /proc/{process.pid}/limits", mend)
