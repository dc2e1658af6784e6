"""The whole walk: look around, then every part of the path at the same time."""

import grp
import os
import pwd
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mdmw.doctor import deployment, probe
from mdmw.doctor.back_end import Known, behind
from mdmw.doctor.deployment import Asked, Daemon
from mdmw.doctor.findings import Finding, Notes, Ordered, ordered, together
from mdmw.doctor.places import Place, Scene, Written, scene
from mdmw.doctor.probe import ANSWER_WITHIN, Seen
from mdmw.doctor.processes import Process, children, files, holders
from mdmw.node import namespaces
from mdmw.node.namespaces import Bind
from mdmw.node.programs import Places

#: Programs that serve a namespace for Neutron's agents; their command lines have the id (P-12).
_PROXIES = ("haproxy", "ns-metadata-proxy")
_NODE = ("mdmw-node", "mdmw.cli.node_", "node_daemon")


def judge(seen: Seen, holders: Mapping[int, Sequence[Process]], node: Daemon) -> Iterator[Finding]:
    """What is wrong with the listeners of one namespace; `holders` are those of each socket's inode."""
    place, name = seen.place, seen.place.namespace
    how = f"ip netns exec {name} ss -ltnp"
    for bind in place.binds if not any(one.kind == "namespace-missing" for one in seen.findings) else ():
        there = seen.at(bind)
        processes = {process for one in there for process in holders.get(one.inode, ())}
        strangers = [process for process in processes if not _is_right(process, seen, node)]
        if not there:
            what = f"nobody listens at {bind}"
            yield Finding("listener-missing", name, what, how, _start(seen, node), name)
        elif strangers and len(strangers) == len(processes):
            who = ", ".join(sorted(map(str, strangers)))
            what = f"{who} listens at {bind} in the place of {_expected(seen, node)}"
            kill = f"kill {' '.join(str(process.pid) for process in strangers)}"
            yield Finding("listener-foreign", name, what, how, (kill, *_start(seen, node)), name)
        elif bind in seen.hung:
            yield _hung(seen, bind, processes, max(one.waiting for one in there), node)
        else:
            seen.checked.append(f"{name}: {bind}")


def _hung(seen: Seen, bind: Bind, processes: Iterable[Process], waiting: int, node: Daemon) -> Finding:
    stopped = [process for process in processes if process.state == "T"]
    name = seen.place.namespace
    why = f"; {_names(stopped)} is stopped" if stopped else ""
    what = f"{_names(processes)} at {bind} does not answer{why}; {waiting} connections wait"
    how = f"nothing came within {ANSWER_WITHIN} s"
    cont = (f"kill -CONT {' '.join(str(one.pid) for one in stopped)}",) if stopped else _start(seen, node)
    return Finding("listener-hung", name, what, how, cont, name)


def workers(node: Daemon) -> list[Process]:
    """Those that serve guests: children of a preloader."""
    keeper = node.process
    preloaders = [one for one in children(keeper.pid) if one.mentions("node_worker")] if keeper else []
    return [worker for one in preloaders for worker in children(one.pid)]


def _is_right(process: Process, seen: Seen, node: Daemon) -> bool:
    if seen.place.by in ("plan", "mdmw-haproxy"):
        return any(process.mentions(word) for word in _NODE)
    is_proxy = any(word in process.name or process.mentions(word) for word in _PROXIES)
    if is_proxy and process.mentions(seen.place.scope.id):
        return True
    return node.state != "absent" and any(process.mentions(word) for word in _NODE)


def _expected(seen: Seen, node: Daemon) -> str:
    if seen.place.by in ("plan", "mdmw-haproxy") or (seen.place.by == "question" and node.state != "absent"):
        return "mdmw-node"
    return f"the haproxy of {seen.place.scope}"


def _start(seen: Seen, node: Daemon) -> tuple[str, ...]:
    if _expected(seen, node) == "mdmw-node":
        return ("systemctl reload mdmw-node",) if node.state == "serves" else ("systemctl restart mdmw-node",)
    return (f"systemctl restart neutron-{'l3' if seen.place.is_router else 'dhcp'}-agent",)


def _names(processes: Iterable[Process]) -> str:
    return ", ".join(sorted(map(str, processes))) or "a process of another host"


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


_MANY = 5  # namespaces; of more not each is told of
_TO_JUDGE = 0.3  # seconds that stay when the last namespace was looked at


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, what was looked at, and what could not be, each as one line."""

    found: tuple[Ordered, ...]
    checked: tuple[str, ...]
    left_out: tuple[str, ...]
    seconds: float


def examine(asked: Asked, within: float) -> Report:
    """Walk the path, within so many seconds; touches nothing."""
    began = time.monotonic()
    end = began + within
    notes = Notes()
    is_root = os.geteuid() == 0
    if not is_root:
        notes.left_out.append("namespaces, processes, rights of sockets, mdmw-node: only root sees them")
    what = scene(asked, is_root, notes)
    seen: list[Seen] = []
    known: list[Known] = []
    tasks: dict[str, Callable[[], None]] = {"upstream": lambda: behind(what, known, notes, end)}
    for path in what.sockets:
        tasks[f"agent at {path}"] = partial(_agent, what, path, notes)
    if is_root:
        tasks["namespaces"] = lambda: _namespaces(what, seen, notes, end)
        tasks["this host"] = lambda: _machine(what, notes)
    notes.omit(together(tasks, end))
    notes.findings.extend(_elsewhere(seen, known, asked))
    return Report(
        tuple(ordered(list(notes.findings))),
        tuple(sorted(set(notes.checked))),
        tuple(sorted(set(notes.left_out))),
        time.monotonic() - began,
    )


def _namespaces(what: Scene, seen: list[Seen], notes: Notes, end: float) -> None:
    context = probe.Context(
        places=what.plan.places if what.plan else Places(),
        source=shlex.join(what.node.words),
        mark=what.plan.options.metadata_access_mark if what.plan else 1,
        guest=what.asked.address or "",
        state_path=what.state_path,
    )
    tasks = {
        f"{one.namespace} ({one.scope})": partial(_look, one, context, seen, notes) for one in what.places
    }
    undone = together(tasks, end - _TO_JUDGE)
    if len(undone) > _MANY:
        why = next(iter(undone.values()))
        undone = {f"{len(undone)} of {len(tasks)} namespaces": f"{why}; name one with --network"}
    notes.omit(undone)
    there = list(seen)
    inodes = {one.inode for each in there for bind in each.place.binds for one in each.at(bind)}
    who = holders(inodes)
    for each in there:
        notes.findings.extend(judge(each, who, what.node))
        notes.checked.extend(each.checked if len(there) <= _MANY else ())
    if len(there) > _MANY:
        notes.checked.append(f"{len(there)} namespaces")


def _look(place: Place, context: probe.Context, seen: list[Seen], notes: Notes) -> None:
    found = probe.look(place, context)
    notes.findings.extend(found.findings)  # at once, since there may be no time to see who listens
    seen.append(found)


def _machine(what: Scene, notes: Notes) -> None:
    notes.findings.extend(of_daemon(what.node, what.asked))
    if what.node.state == "serves":
        notes.checked.append(f"mdmw-node (pid {what.node.status['pid']})")
    databases = [stage.local_conf.get("password_db") for stage in what.stages]
    directories = [
        *(what.asked.run_dir, what.state_path, what.state_path / "dhcp"),
        *([what.plan.places.state] if what.plan else []),
        *(path.parent for path in what.sockets),
        *(Path(name).parent for name in databases if name),
    ]
    notes.findings.extend(disks(dict.fromkeys(directories)))
    agents = [found for path in what.sockets if (found := deployment.peer(path))]
    keeper = [what.node.process] if what.node.process else []
    notes.findings.extend(limits([*keeper, *workers(what.node), *agents]))
    notes.findings.extend(probe.conntrack(""))
    notes.checked.append("room on disks, open files, connection tracking")


def _agent(what: Scene, path: Path, notes: Notes) -> None:
    worker = workers(what.node)[:1]
    users = {str(one): (one.uid, one.groups) for one in worker} | dict(_proxies(what.written))
    found = list(probe.check(path, users))
    notes.findings.extend(found)
    if not found:
        notes.checked.append(f"agent at {path}")


def _proxies(written: Iterable[Written]) -> Iterator[tuple[str, tuple[int, frozenset[int]]]]:
    """The users of Neutron's proxies, as far as their files name them."""
    for one in written:
        with suppress(KeyError):
            if one.user:
                user = pwd.getpwnam(one.user)
                group = grp.getgrnam(one.group).gr_gid if one.group else user.pw_gid
                yield "haproxy", (user.pw_uid, frozenset({group}))


def _elsewhere(seen: Sequence[Seen], known: Sequence[Known], asked: Asked) -> Iterator[Finding]:
    """Who has a guest's address on the wire, where that is not its port."""
    for guest in known:
        for each in seen:
            is_it = each.place.scope == guest.source.scope and guest.source.address == asked.address
            if is_it and guest.mac and each.neighbour and each.neighbour != guest.mac:
                what = f"{each.neighbour} has it on the wire, but its port has {guest.mac}"
                how = f"ip netns exec {each.place.namespace} ip neigh show {guest.source.address}"
                mend = ("# find the machine with that MAC, and take the address from it",)
                yield Finding("duplicate-address", str(guest.source), what, how, mend, each.place.namespace)
