"""Check what all guests need: mdmw-node, disks, open files, connection tracking, the agent's socket."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mdmw.doctor.configuration import NodeDaemon
from mdmw.doctor.findings import Finding
from mdmw.doctor.processes import Process, children, connect_obstacle, listening_process, open_files
from mdmw.node import namespaces, network_state
from mdmw.node.workers import PRELOADER

ANSWER_WITHIN = 0.7  # seconds, for a process of this host
#: Not HTTP: a server refuses these bytes itself, and asks no upstream.
NOT_HTTP = b"?\r\n\r\n"
_LEAST_ROOM = 1024 * 1024  # bytes
_MOST_USED = 0.9  # of the files that a process may open
_LEAST_FILES = 1024  # that a process with connections of guests must be allowed to open
_MOST_TRACKED = 0.95  # of the connection tracking table
_RESTART_NODE = ("systemctl restart mdmw-node", "journalctl -u mdmw-node -n 20")
_RESTART_AGENT = (
    "systemctl restart mdmw-agent  # or mdmw-metadata-agent",
    "journalctl -u 'mdmw-*agent' -n 20",
)


# --- mdmw-node --------------------------------------------------------------------------


def workers(node: NodeDaemon) -> list[Process]:
    """The processes of mdmw-node that serve guests; each is a child of a preloader."""
    keeper = node.process
    preloaders = [one for one in children(keeper.pid) if one.mentions(PRELOADER)] if keeper else []
    return [worker for preloader in preloaders for worker in children(preloader.pid)]


def check_daemon(node: NodeDaemon, control: Path) -> Iterator[Finding]:
    """mdmw-node, and each of its workers; `control` is its control socket."""
    where = str(control)
    if node.state == "down":
        how = "no process listens at the control socket"
        yield Finding("node-down", where, "mdmw-node does not run", how, _RESTART_NODE)
    if node.state == "hung":
        yield _hung_daemon(node.process, where)
    if node.state != "serves":
        return
    serving = workers(node)
    if not serving:
        yield Finding("workers-missing", where, "mdmw-node has no workers", "mdmw node status", _RESTART_NODE)
    for worker in serving:
        if worker.is_stopped:
            what = f"the worker {worker.pid} of mdmw-node is stopped, and the guests of its connections wait"
            mend = (f"kill -CONT {worker.pid}",)
            yield Finding("worker-stopped", where, what, f"/proc/{worker.pid}/status: State: T", mend)
    for problem in node.problems:
        name = problem.partition(":")[0]
        of_namespace = name if name in namespaces.names() else ""
        mend = ("journalctl -u mdmw-node -n 20",)
        yield Finding("node-problem", where, problem, "mdmw node status", mend, of_namespace)


def _hung_daemon(keeper: Process | None, where: str) -> Finding:
    how = "no answer came from the control socket"
    if keeper and keeper.is_stopped:
        what = f"{keeper} does not answer, because the process is stopped"
        return Finding("node-hung", where, what, how, (f"kill -CONT {keeper.pid}",))
    return Finding("node-hung", where, f"{keeper or 'mdmw-node'} does not answer", how, _RESTART_NODE)


# --- limits of the host -----------------------------------------------------------------


def check_disks(directories: Iterable[Path]) -> Iterator[Finding]:
    """Room on the disks of those directories that exist."""
    for directory in directories:
        try:
            disk = os.statvfs(directory)
        except OSError:
            continue
        room = disk.f_bavail * disk.f_frsize
        has_no_files = disk.f_files and not disk.f_favail
        if room < _LEAST_ROOM or has_no_files:
            what = "the disk has no free inode" if has_no_files else f"the disk has {room // 1024} KiB free"
            how = f"df {'-i ' if has_no_files else ''}{directory}"
            mend = (f"du -xah {directory} | sort -h | tail",)
            yield Finding("disk-full", str(directory), what, how, mend)


def check_open_files(processes: Iterable[Process]) -> Iterator[Finding]:
    """Processes that cannot open the files that connections of guests need."""
    for process in processes:
        found = open_files(process.pid)
        if found is None:
            continue
        used, most = found
        if used >= _MOST_USED * most or most < _LEAST_FILES:
            what = f"{process} has {used} files open, and may open {most}"
            mend = (
                f"prlimit --pid {process.pid} --nofile=65536",
                "# and for the next start, in the unit of the process: LimitNOFILE=65536",
            )
            yield Finding("file-limit", str(process), what, f"grep files /proc/{process.pid}/limits", mend)


def check_conntrack(namespace: str) -> Iterator[Finding]:
    """Whether the connection tracking table of this thread's namespace is full; the host's name is empty."""
    texts = [network_state.sysctl(f"netfilter/nf_conntrack_{name}") for name in ("count", "max")]
    count, most = (int(text or 0) for text in texts)
    if most and count >= _MOST_TRACKED * most:
        enter = f"ip netns exec {namespace} " if namespace else ""
        what = (
            f"the kernel tracks {count} connections, may track {most}, and drops packets of new connections"
        )
        how = f"{enter}sysctl net.netfilter.nf_conntrack_count"
        mend = (f"sysctl -w net.netfilter.nf_conntrack_max={2 * most}",)
        yield Finding("conntrack-full", namespace or "this host", what, how, mend, namespace)


# --- the agent's socket -----------------------------------------------------------------


def check_agent_socket(path: Path, users: Mapping[str, tuple[int, frozenset[int]]]) -> Iterator[Finding]:
    """The socket of an agent. `users` are the proxies: name of a process -> its user and its groups."""
    where = str(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        what = f"the socket of the agent cannot be found: {error.strerror}"
        yield Finding("socket-missing", where, what, f"ls -l {path}", _RESTART_AGENT)
        return
    if not stat.S_ISSOCK(mode):
        mend = (f"rm {path}", *_RESTART_AGENT)
        yield Finding("socket-missing", where, "the file is not a socket", f"ls -l {path}", mend)
        return
    yield from _check_permissions(path, users)
    yield from _check_answer(path)


def _check_permissions(path: Path, users: Mapping[str, tuple[int, frozenset[int]]]) -> Iterator[Finding]:
    for name, (uid, groups) in users.items():
        with contextlib.suppress(OSError):  # the socket was removed meanwhile
            if why := connect_obstacle(path, uid, groups):
                what = f"{name}, user {uid}, may not connect to the agent: {why}"
                mend = (
                    "# metadata_proxy_user and metadata_proxy_group of the agent say who owns the socket",
                    f"chown {uid} {path}",
                    f"chmod u+rw {path}",
                )
                yield Finding("socket-forbidden", str(path), what, f"namei -l {path}", mend)


def _check_answer(path: Path) -> Iterator[Finding]:
    where, how = str(path), f"ss -xlp src {path}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except BlockingIOError:
            what = "the agent does not accept connections, and its backlog is full"
            yield Finding("agent-full", where, what, how, _RESTART_AGENT)
            return
        except OSError as error:
            what = f"no process listens at the socket of the agent: {error.strerror}"
            yield Finding("agent-down", where, what, how, _RESTART_AGENT)
            return
        sock.settimeout(ANSWER_WITHIN)
        try:
            sock.sendall(NOT_HTTP)
            sock.recv(1)
        except TimeoutError:
            yield _hung_agent(path)
        except OSError:  # the agent closed the connection, so it is alive
            return


def _hung_agent(path: Path) -> Finding:
    agent = listening_process(path)
    how = f"no answer came within {ANSWER_WITHIN} s"
    if agent and agent.is_stopped:
        what = f"{agent} does not answer, because the process is stopped"
        return Finding("agent-hung", str(path), what, how, (f"kill -CONT {agent.pid}",))
    return Finding("agent-hung", str(path), f"{agent or 'the agent'} does not answer", how, _RESTART_AGENT)
