"""Whose process listens where guests arrive, and whether it is the one that should."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mdmw.doctor.deployment import Daemon
from mdmw.doctor.findings import Finding
from mdmw.doctor.look import ANSWER_WITHIN, Seen
from mdmw.doctor.processes import Process, children
from mdmw.node.namespaces import Bind

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
