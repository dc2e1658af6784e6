"""The whole walk: look around, then every part of the path at the same time."""

import grp
import os
import pwd
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mdmw.doctor import agent, deployment, listeners, look, machine
from mdmw.doctor.behind import behind
from mdmw.doctor.deployment import Asked
from mdmw.doctor.findings import Finding, Ordered, ordered
from mdmw.doctor.identity import Known
from mdmw.doctor.look import Seen
from mdmw.doctor.notes import Notes
from mdmw.doctor.places import Place, Written
from mdmw.doctor.processes import holders
from mdmw.doctor.scene import Scene, scene
from mdmw.doctor.together import together
from mdmw.node.wanted import Places

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
    context = look.Context(
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
        notes.findings.extend(listeners.judge(each, who, what.node))
        notes.checked.extend(each.checked if len(there) <= _MANY else ())
    if len(there) > _MANY:
        notes.checked.append(f"{len(there)} namespaces")


def _look(place: Place, context: look.Context, seen: list[Seen], notes: Notes) -> None:
    found = look.look(place, context)
    notes.findings.extend(found.findings)  # at once, since there may be no time to see who listens
    seen.append(found)


def _machine(what: Scene, notes: Notes) -> None:
    notes.findings.extend(machine.of_daemon(what.node, what.asked))
    if what.node.state == "serves":
        notes.checked.append(f"mdmw-node (pid {what.node.status['pid']})")
    databases = [stage.local_conf.get("password_db") for stage in what.stages]
    directories = [
        *(what.asked.run_dir, what.state_path, what.state_path / "dhcp"),
        *([what.plan.places.state] if what.plan else []),
        *(path.parent for path in what.sockets),
        *(Path(name).parent for name in databases if name),
    ]
    notes.findings.extend(machine.disks(dict.fromkeys(directories)))
    agents = [found for path in what.sockets if (found := deployment.peer(path))]
    keeper = [what.node.process] if what.node.process else []
    notes.findings.extend(machine.limits([*keeper, *listeners.workers(what.node), *agents]))
    notes.findings.extend(look.conntrack(""))
    notes.checked.append("room on disks, open files, connection tracking")


def _agent(what: Scene, path: Path, notes: Notes) -> None:
    worker = listeners.workers(what.node)[:1]
    users = {str(one): (one.uid, one.groups) for one in worker} | dict(_proxies(what.written))
    found = list(agent.check(path, users))
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
