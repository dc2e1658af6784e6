"""Find out how this host serves metadata, then check every part of the path at the same time."""

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

from mdmw.doctor import addresses, host, nova
from mdmw.doctor.addresses import LIMITS, AddressQuestion, KnownGuest
from mdmw.doctor.configuration import NodeDaemon, Question
from mdmw.doctor.deployment import Deployment, find_deployment
from mdmw.doctor.findings import Cause, Finding, Results, causes
from mdmw.doctor.inside import Context, NamespaceCheck, check_namespace, restart_of_neutron_agent
from mdmw.doctor.namespaces import GuestNamespace, HaproxyFile
from mdmw.doctor.nova import NovaAccess
from mdmw.doctor.parallel import run_in_parallel
from mdmw.doctor.processes import Process, listening_process, socket_holders
from mdmw.errors import RequestError
from mdmw.node.desired import Places
from mdmw.node.namespaces import Bind
from mdmw.records import Scope
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import Answer, Upstream
from mdmw.wire import source_headers

#: Programs that serve a namespace for Neutron's agents; their command lines have the id (P-12).
_PROXIES = ("haproxy", "ns-metadata-proxy")
_NODE = ("mdmw-node", "mdmw.node.", "node_daemon")
_MOST_LISTED = 5  # namespaces that are listed one by one
_MOST_SCOPES = 20  # whose guests are asked for, if the question names no network
_FOR_LISTENERS = 0.3  # seconds that stay for `_check_listeners`
_FOR_THE_GUEST = 0.3  # seconds that stay for the request of a guest


@dataclass(frozen=True, slots=True)
class Examination:
    """What the doctor found. `checked` and `left_out` are lines for the operator, `seconds` the duration."""

    causes: tuple[Cause, ...]
    checked: tuple[str, ...]
    left_out: tuple[str, ...]
    seconds: float


def examine(question: Question, within: float) -> Examination:
    """Check the path of the guests' packets, within so many seconds; changes nothing."""
    began = time.monotonic()
    end = began + within
    results = Results()
    is_root = os.geteuid() == 0
    if not is_root:
        results.left_out.append("namespaces, processes, rights of sockets, mdmw-node: only root sees them")
    deployment = find_deployment(question, is_root, results)
    checks: list[NamespaceCheck] = []
    guests: list[KnownGuest] = []
    tasks: dict[str, Callable[[], None]] = {
        "upstream": lambda: _check_upstreams(deployment, guests, results, end)
    }
    for path in deployment.sockets:
        tasks[f"agent at {path}"] = partial(_check_agent, deployment, path, results)
    if is_root:
        tasks["namespaces"] = lambda: _check_namespaces(deployment, checks, results, end)
        tasks["this host"] = lambda: _check_host(deployment, results)
    results.leave_out(run_in_parallel(tasks, end))
    results.findings.extend(_stolen_addresses(checks, guests, question))
    return Examination(
        tuple(causes(list(results.findings))),
        tuple(sorted(set(results.checked))),
        tuple(sorted(set(results.left_out))),
        time.monotonic() - began,
    )


# --- namespaces and listeners -----------------------------------------------------------


def _check_namespaces(
    deployment: Deployment, checks: list[NamespaceCheck], results: Results, end: float
) -> None:
    planning = deployment.planning
    context = Context(
        places=planning.places if planning else Places(),
        source=shlex.join(deployment.node.source_words),
        mark=planning.options.metadata_access_mark if planning else 1,
        guest=deployment.question.address or "",
        state_path=deployment.state_path,
    )

    def check(namespace: GuestNamespace) -> None:
        found = check_namespace(namespace, context)
        results.findings.extend(found.findings)  # at once: there may be no time for the listeners
        checks.append(found)

    tasks = {f"{one.name} ({one.scope})": partial(check, one) for one in deployment.namespaces}
    not_completed = run_in_parallel(tasks, end - _FOR_LISTENERS)
    if len(not_completed) > _MOST_LISTED:
        why = next(iter(not_completed.values()))
        some = f"{len(not_completed)} of {len(tasks)} namespaces"
        not_completed = {some: f"{why}; name one network with --network"}
    results.leave_out(not_completed)
    completed = list(checks)
    inodes = {
        sock.inode for one in completed for bind in one.namespace.binds for sock in one.listening_at(bind)
    }
    holders = socket_holders(inodes)
    for one in completed:
        results.findings.extend(_check_listeners(one, holders, deployment.node))
        results.checked.extend(one.checked if len(completed) <= _MOST_LISTED else ())
    if len(completed) > _MOST_LISTED:
        results.checked.append(f"{len(completed)} namespaces")


def _check_listeners(
    check: NamespaceCheck, holders: Mapping[int, Sequence[Process]], node: NodeDaemon
) -> Iterator[Finding]:
    """Which process listens at each address; `holders` has the processes of the inode of each socket."""
    namespace, name = check.namespace, check.namespace.name
    if any(one.kind == "namespace-missing" for one in check.findings):
        return
    how = f"ip netns exec {name} ss -ltnp"
    for bind in namespace.binds:
        sockets = check.listening_at(bind)
        processes = {process for sock in sockets for process in holders.get(sock.inode, ())}
        strangers = [process for process in processes if not _may_listen(process, namespace, node)]
        if not sockets:
            what = f"no process listens at {bind}"
            yield Finding("listener-missing", name, what, how, _restart(namespace, node), name)
        elif strangers and len(strangers) == len(processes):
            what = f"{_names(strangers)} listens at {bind} instead of {_expected_listener(namespace, node)}"
            kill = f"kill {' '.join(str(process.pid) for process in strangers)}"
            yield Finding("listener-foreign", name, what, how, (kill, *_restart(namespace, node)), name)
        elif bind in check.hung:
            yield _hung(namespace, bind, processes, max(sock.waiting for sock in sockets), node)
        else:
            check.checked.append(f"{name}: {bind}")


def _hung(
    namespace: GuestNamespace, bind: Bind, processes: Iterable[Process], waiting: int, node: NodeDaemon
) -> Finding:
    stopped = [process for process in processes if process.is_stopped]
    why = f", because {_names(stopped)} is stopped" if stopped else ""
    what = f"{_names(processes)} does not answer at {bind}{why}; {waiting} connections wait"
    how = f"no answer came within {host.ANSWER_WITHIN} s"
    mend = (
        (f"kill -CONT {' '.join(str(one.pid) for one in stopped)}",) if stopped else _restart(namespace, node)
    )
    return Finding("listener-hung", namespace.name, what, how, mend, namespace.name)


def _may_listen(process: Process, namespace: GuestNamespace, node: NodeDaemon) -> bool:
    is_of_node = any(process.mentions(word) for word in _NODE)
    if namespace.is_served_by_mdmw_node:
        return is_of_node
    is_proxy = any(word in process.name or process.mentions(word) for word in _PROXIES)
    return (is_proxy and process.mentions(namespace.scope.id)) or (is_of_node and node.state != "absent")


def _expected_listener(namespace: GuestNamespace, node: NodeDaemon) -> str:
    is_of_node = namespace.is_served_by_mdmw_node or (
        namespace.named_by == "question" and node.state != "absent"
    )
    return "mdmw-node" if is_of_node else f"the haproxy of {namespace.scope}"


def _restart(namespace: GuestNamespace, node: NodeDaemon) -> tuple[str, ...]:
    """The command that makes the right process listen."""
    if _expected_listener(namespace, node) == "mdmw-node":
        return (f"systemctl {'reload' if node.state == 'serves' else 'restart'} mdmw-node",)
    return (restart_of_neutron_agent(namespace),)


def _names(processes: Iterable[Process]) -> str:
    return ", ".join(sorted(map(str, processes))) or "a process that /proc does not show"


# --- this host --------------------------------------------------------------------------


def _check_host(deployment: Deployment, results: Results) -> None:
    node, question = deployment.node, deployment.question
    results.findings.extend(host.check_daemon(node, question.control_socket))
    if node.state == "serves":
        results.checked.append(f"mdmw-node (pid {node.status['pid']})")
    databases = [stage.local_conf.get("password_db") for stage in deployment.stages]
    directories = [
        *(question.run_dir, deployment.state_path, deployment.state_path / "dhcp"),
        *([deployment.planning.places.state] if deployment.planning else []),
        *(path.parent for path in deployment.sockets),
        *(Path(name).parent for name in databases if name),
    ]
    results.findings.extend(host.check_disks(dict.fromkeys(directories)))
    agents = [found for path in deployment.sockets if (found := listening_process(path))]
    keeper = [node.process] if node.process else []
    results.findings.extend(host.check_open_files([*keeper, *host.workers(node), *agents]))
    results.findings.extend(host.check_conntrack(""))
    results.checked.append("room on disks, open files, connection tracking")


def _check_agent(deployment: Deployment, path: Path, results: Results) -> None:
    workers = host.workers(deployment.node)[:1]
    users = {str(worker): (worker.uid, worker.groups) for worker in workers}
    users |= dict(_haproxy_users(deployment.haproxy_files))
    found = list(host.check_agent_socket(path, users))
    results.findings.extend(found)
    if not found:
        results.checked.append(f"agent at {path}")


def _haproxy_users(written: Iterable[HaproxyFile]) -> Iterator[tuple[str, tuple[int, frozenset[int]]]]:
    """The users of Neutron's haproxies, as their files name them."""
    for one in written:
        with suppress(KeyError):
            if one.user:
                user = pwd.getpwnam(one.user)
                group = grp.getgrnam(one.group).gr_gid if one.group else user.pw_gid
                yield "haproxy", (user.pw_uid, frozenset({group}))


# --- Keystone, Neutron, Nova ------------------------------------------------------------


def _check_upstreams(deployment: Deployment, guests: list[KnownGuest], results: Results, end: float) -> None:
    """Ask the services until `end`; the guests that were found are added to `guests`."""
    if not deployment.stages:
        results.left_out.append(
            "Keystone, Neutron, Nova: no pipeline asks them; name it with --ini, --pipeline"
        )
        return
    access = results.read(lambda: nova.nova_access(deployment.stages), None)
    tasks = dict(_address_tasks(deployment, guests, results))

    def check_nova(address: Address) -> None:
        if access:
            results.findings.extend(nova.check_nova(access, address))

    for address in access.addresses if access else ():
        tasks[f"Nova at {address}"] = partial(check_nova, address)
    not_completed = run_in_parallel(tasks, end - _FOR_THE_GUEST)
    results.leave_out(not_completed)
    results.checked.extend(tasks.keys() - not_completed.keys())
    for guest in guests[:1]:
        _check_guest(guest, deployment.sockets[0] if deployment.sockets else None, access, results)


def _address_tasks(
    deployment: Deployment, guests: list[KnownGuest], results: Results
) -> Iterator[tuple[str, Callable[[], None]]]:
    neutron = results.read(lambda: addresses.neutron_access(deployment.stages), None)
    resolver = results.read(lambda: addresses.local_resolver(deployment.stages), None)
    questions = _address_questions(deployment, results)

    def take(answers: Iterable[Finding | KnownGuest]) -> None:
        for answer in answers:
            if isinstance(answer, KnownGuest):
                guests.append(answer)
                results.checked.append(f"{answer.source} is instance {answer.instance.id}")
            else:
                results.findings.append(answer)

    if neutron:
        yield "Keystone and Neutron", lambda: take(addresses.ask_neutron(neutron, questions))
        if url := neutron.auth_url:
            yield "Keystone's clock", lambda: results.findings.extend(nova.check_clock(url))
    elif resolver:
        yield "inventory", lambda: take(addresses.ask_resolver(resolver, questions))
    else:
        results.left_out.append(
            "which instance has an address: the resolver is neither Neutron's REST API nor an inventory"
        )


def _address_questions(deployment: Deployment, results: Results) -> list[AddressQuestion]:
    question = deployment.question
    scopes: list[Scope] = list(dict.fromkeys(one.scope for one in deployment.namespaces if one.binds))
    if not scopes and question.scope:
        scopes = [question.scope]
    if len(scopes) > _MOST_SCOPES and not question.address:
        others = len(scopes) - _MOST_SCOPES
        results.left_out.append(f"the guests of {others} networks: name one network with --network")
        scopes = scopes[:_MOST_SCOPES]
    return [(scope, question.address) for scope in scopes]


def _check_guest(guest: KnownGuest, agent: Path | None, access: NovaAccess | None, results: Results) -> None:
    """Ask for the metadata of a guest, as its proxy asks the agent; without an agent, ask Nova."""
    if agent is None and access is None:
        return
    where = f"the agent at {agent}" if agent else "Nova"
    how = f"GET {nova.TARGET} for {guest.source}"
    mend = (
        "# the log of the agent has the reason, under the request id of the answer:",
        "journalctl -u 'mdmw-*' -n 20",
    )
    try:
        answer = _ask_agent(guest, agent) if agent else _ask_nova(guest, access)
    except RequestError as error:
        what = f"{where} gives no answer: {error}"
        results.findings.append(Finding("answer", str(guest.source), what, how, mend))
        return
    if answer and answer.status != 200:
        what = f"{where} answers {answer.status} {answer.reason} for instance {guest.instance.id}"
        results.findings.append(Finding("answer", str(guest.source), what, how, mend))
    else:
        results.checked.append(f"{guest.source} gets its metadata from {where}")


def _ask_agent(guest: KnownGuest, agent: Path) -> Answer:
    headers = [nova.USER_AGENT, *source_headers(guest.source)]
    answer = Upstream([Address("unix", path=str(agent))], LIMITS).exchange("GET", nova.TARGET, headers)
    answer.close()
    return answer


def _ask_nova(guest: KnownGuest, access: NovaAccess | None) -> Answer | None:
    return nova.ask_nova(access, access.addresses[0], guest.source, guest.instance) if access else None


def _stolen_addresses(
    checks: Sequence[NamespaceCheck], guests: Sequence[KnownGuest], question: Question
) -> Iterator[Finding]:
    """Machines that send from the address of a guest with another MAC than that of its port."""
    for guest in guests:
        for check in checks:
            is_asked = (
                check.namespace.scope == guest.source.scope and guest.source.address == question.address
            )
            if is_asked and guest.mac and check.guest_mac and check.guest_mac != guest.mac:
                name = check.namespace.name
                what = (
                    f"the machine with MAC {check.guest_mac} uses this address on the network, but the port "
                    f"with this address has MAC {guest.mac}"
                )
                how = f"ip netns exec {name} ip neigh show {guest.source.address}"
                mend = (f"# find the machine with MAC {check.guest_mac}, and remove the address from it",)
                yield Finding("duplicate-address", str(guest.source), what, how, mend, name)
