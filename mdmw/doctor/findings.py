"""What can be found, in the order of a packet's path, and what follows from what.

The catalogue is the one place for the words of `doc/doctor.rst`.
"""

import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from mdmw.errors import ConfigError, MdmwError

Severity = Literal["fault", "warning"]


@dataclass(frozen=True, slots=True)
class Kind:
    """`meaning` is for people. `explains`: later kinds that follow from it, and are not told beside it."""

    name: str
    severity: Severity
    meaning: str
    explains: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: `what` is wrong `where`, `how` it is known, and the shell lines that mend it.

    `namespace`: the one that it is about; empty for what all of them have in common.
    """

    kind: str
    where: str
    what: str
    how: str
    mend: tuple[str, ...]
    namespace: str = ""

    @property
    def severity(self) -> Severity:
        """Of its kind."""
        return KINDS[self.kind].severity


@dataclass(frozen=True, slots=True)
class Ordered:
    """A finding that is to be told, and those that follow from it."""

    finding: Finding
    consequences: tuple[Finding, ...] = ()


_DHCP = ("device-missing", "device-down", "address-missing", "route-missing", "sysctl", "dhcp-dead")
_LISTENING = ("listener-missing", "listener-foreign", "listener-hung")
_AGENT = ("agent-down", "agent-full", "agent-hung")
_SERVED = ("answer",)
_INSIDE = (*_DHCP, "options-missing", "rules-missing", *_LISTENING)
_NOVA = ("nova-unreachable", "nova-slow", "nova-error", "wrong-secret", "nova-answer")


def _kind(name: str, severity: Severity, meaning: str, *explains: str) -> Kind:
    return Kind(name, severity, meaning, frozenset(explains))


#: By name, in the order in which a packet meets them; those of the node as a whole come first.
KINDS = {
    kind.name: kind
    for kind in (
        _kind(
            "configuration",
            "fault",
            "A file of options cannot be used, or is not there.",
            "node-problem",
            "node-down",
            *_SERVED,
        ),
        _kind(
            "disk-full",
            "fault",
            "There is no room for what mdmw must write.",
            *("options-missing", "dhcp-dead", "node-problem"),
        ),
        _kind("conntrack-full", "fault", "The kernel's table of connections is full: it drops new ones."),
        _kind("file-limit", "fault", "A process has, or can have, too few open files.", "listener-hung"),
        _kind("node-down", "fault", "mdmw-node does not run.", *_INSIDE),
        _kind("node-hung", "fault", "mdmw-node runs, but does not answer.", *_INSIDE),
        _kind("workers-missing", "fault", "mdmw-node has no workers.", *_LISTENING),
        _kind("worker-stopped", "fault", "A worker of mdmw-node is stopped.", "listener-hung"),
        _kind("namespace-missing", "fault", "The namespace is not there.", *_INSIDE, "node-problem"),
        _kind(
            "device-missing",
            "fault",
            "The device of the DHCP port or router is not there.",
            *_INSIDE,
            "node-problem",
        ),
        _kind("device-down", "fault", "That device is down.", *_INSIDE),
        _kind(
            "address-missing", "fault", "An address is not on the device.", "listener-hung", "node-problem"
        ),
        _kind("address-duplicate", "warning", "Another host of the network has the address."),
        _kind("route-missing", "fault", "The namespace has no way back to its guests' other subnets."),
        _kind("sysctl", "warning", "A setting of the namespace's kernel is not as planned."),
        _kind("options-missing", "fault", "Guests are not told the route to the metadata address."),
        _kind("dhcp-dead", "fault", "dnsmasq, or the radvd of a router, does not run."),
        _kind("rules-missing", "fault", "Packets are not redirected to the router's listener."),
        _kind("listener-foreign", "fault", "Another program listens in our place.", "listener-hung"),
        _kind("listener-missing", "fault", "Nobody listens for guests."),
        _kind("listener-hung", "fault", "Who listens does not answer."),
        _kind("backlog-overflow", "warning", "Connections came faster than they were accepted."),
        _kind("socket-missing", "fault", "The agent's socket is not there.", *_AGENT, *_SERVED),
        _kind("socket-forbidden", "fault", "The proxies may not connect to the agent's socket.", *_SERVED),
        _kind("agent-down", "fault", "Nobody listens at the agent's socket.", *_SERVED),
        _kind("agent-full", "fault", "The agent does not accept, and its backlog is full.", *_SERVED),
        _kind("agent-hung", "fault", "The agent does not answer.", *_SERVED),
        _kind("keystone", "fault", "There is no token.", "neutron", *_SERVED),
        _kind("neutron", "fault", "Neutron, or the inventory, cannot be asked.", *_SERVED),
        _kind("unknown-address", "fault", "No instance has this address here.", *_SERVED),
        _kind("duplicate-address", "fault", "Several machines have one address.", *_SERVED),
        _kind("clock", "warning", "The clocks of this host and of another differ."),
        _kind(
            "certificate-expired",
            "fault",
            "A certificate is not valid any more, or not yet.",
            *_NOVA,
            "answer",
        ),
        _kind("certificate-ends", "warning", "A certificate ends soon."),
        _kind("nova-unreachable", "fault", "Nova's metadata API cannot be connected to.", *_SERVED),
        _kind("nova-slow", "fault", "Nova's metadata API is slow.", *_SERVED),
        _kind("wrong-secret", "fault", "Nova refuses the signature.", *_SERVED),
        _kind("nova-error", "fault", "Nova's metadata API has a fault.", *_SERVED),
        _kind("nova-answer", "fault", "What answers is not Nova's metadata API as it should be.", *_SERVED),
        _kind("answer", "fault", "All parts seem right, but a guest gets no answer."),
        _kind("node-problem", "fault", "mdmw-node says what a person must do."),
    )
}
_PLACE = {name: number for number, name in enumerate(KINDS)}
_SEVERITIES: tuple[Severity, ...] = ("fault", "warning")


def ordered(findings: Sequence[Finding]) -> list[Ordered]:
    """Causes only, faults first, in the order of a packet's path; each with what follows from it."""
    inorder = sorted(dict.fromkeys(findings), key=_rank)
    following: dict[Finding, list[Finding]] = {}
    for one in inorder:
        cause = one
        while (before := next((other for other in inorder if _explains(other, cause)), None)) is not None:
            cause = before
        following.setdefault(cause, [])
        following[cause] += [one] if one is not cause else []
    return [Ordered(cause, tuple(following[cause])) for cause in inorder if cause in following]


def _rank(finding: Finding) -> tuple[int, int, str]:
    return _SEVERITIES.index(finding.severity), _PLACE[finding.kind], finding.where


def _explains(cause: Finding, other: Finding) -> bool:
    """Only what comes later on the path follows from a cause."""
    if _PLACE[other.kind] <= _PLACE[cause.kind]:
        return False
    same = not cause.namespace or not other.namespace or cause.namespace == other.namespace
    return same and other.kind in KINDS[cause.kind].explains


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Notes:
    """`checked`: what was looked at; `left_out`: what could not be, and why."""

    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def omit(self, undone: Mapping[str, str]) -> None:
        """What was not done, and why."""
        self.left_out.extend(f"{name}: {why}" for name, why in undone.items())

    def read(self, read: Callable[[], T], otherwise: T) -> T:
        """What `read` returns; a file that cannot be used is a finding, and the walk goes on."""
        try:
            return read()
        except ConfigError as error:
            if os.geteuid():  # it may be readable by root alone
                self.left_out.append(str(error))
                return otherwise
            where, _, what = str(error).partition(": ")
            mend = ("mdmw check", "# and what the daemon says of it: journalctl -u 'mdmw*' -n 20")
            self.findings.append(Finding("configuration", where, what or where, "it was read", mend))
            return otherwise


#: What a task may raise: that it could not be done is then all there is to say.
_EXPECTED = (MdmwError, OSError, subprocess.SubprocessError)


def together(tasks: Mapping[str, Callable[[], None]], end: float, most: int = 16) -> dict[str, str]:
    """Do the tasks by `end` (of `time.monotonic`), up to `most` at a time; those not done, and why.

    What takes longer goes on in threads that nobody waits for; the process may end meanwhile.
    """
    waiting = queue.SimpleQueue[str]()
    done = queue.SimpleQueue[tuple[str, Exception | None]]()
    for name in tasks:
        waiting.put(name)

    def work() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                tasks[name]()
            except Exception as error:
                done.put((name, error))
            else:
                done.put((name, None))

    for _ in range(min(most, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    return _outcome(dict.fromkeys(tasks, "no time was left"), done, end)


def _outcome(
    left: dict[str, str], done: "queue.SimpleQueue[tuple[str, Exception | None]]", end: float
) -> dict[str, str]:
    problems = {}
    while left:
        try:
            name, error = done.get(timeout=max(end - time.monotonic(), 0))
        except queue.Empty:
            break
        del left[name]
        if error:
            why = " ".join(str(error).split())
            # A defect of one part must not keep from an operator what the others found.
            is_expected = isinstance(error, _EXPECTED)
            problems[name] = why if is_expected else f"a defect of mdmw: {type(error).__name__}: {why}"
    return problems | left
