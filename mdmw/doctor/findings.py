"""The faults that the doctor can find, in the order of a packet's way, and which fault causes which.

`KINDS` is the only place for the meaning of each kind; the table of `doc/doctor.rst` has the same words.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from mdmw.errors import ConfigError

Severity = Literal["fault", "warning"]
_SEVERITIES: tuple[Severity, ...] = ("fault", "warning")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FindingKind:
    """One kind of fault. `meaning` is a sentence for the operator.

    `explains` has the names of later kinds that are consequences of this kind; a consequence is not shown as
    a fault of its own.
    """

    name: str
    severity: Severity
    meaning: str
    explains: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: `what` is wrong, `where`, `how` the doctor knows, and shell lines that `mend` the fault.

    `namespace` is the namespace that has the fault; it is empty for a fault of the whole host.
    """

    kind: str
    where: str
    what: str
    how: str
    mend: tuple[str, ...]
    namespace: str = ""

    @property
    def severity(self) -> Severity:
        """The severity of the kind."""
        return KINDS[self.kind].severity


@dataclass(frozen=True, slots=True)
class Cause:
    """A finding that no other finding explains, and the findings that this finding explains."""

    finding: Finding
    consequences: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """What the checks have found so far; several threads add to the lists.

    `checked` names what was checked, `left_out` names what could not be checked, and why.
    """

    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, not_completed: Mapping[str, str]) -> None:
        """Add checks that were not completed: name -> reason."""
        self.left_out.extend(f"{name}: {why}" for name, why in not_completed.items())

    def read(self, read: Callable[[], T], otherwise: T) -> T:
        """What `read` returns, or `otherwise` after a `ConfigError`, which becomes a finding."""
        try:
            return read()
        except ConfigError as error:
            if os.geteuid():  # the file may be readable by root alone
                self.left_out.append(str(error))
                return otherwise
            where, _, what = str(error).partition(": ")
            mend = (
                "mdmw check",
                "# read what the daemon says about the file:",
                "journalctl -u 'mdmw*' -n 20",
            )
            self.findings.append(Finding("configuration", where, what or where, "the file was read", mend))
            return otherwise


_DHCP = ("device-missing", "device-down", "address-missing", "route-missing", "sysctl", "dhcp-dead")
_LISTENING = ("listener-missing", "listener-foreign", "listener-hung")
_AGENT = ("agent-down", "agent-full", "agent-hung")
_INSIDE = (*_DHCP, "options-missing", "rules-missing", *_LISTENING)
_NOVA = ("nova-unreachable", "nova-slow", "nova-error", "wrong-secret", "nova-answer")


def _fault(name: str, meaning: str, *explains: str) -> FindingKind:
    return FindingKind(name, "fault", meaning, frozenset(explains))


def _warning(name: str, meaning: str) -> FindingKind:
    return FindingKind(name, "warning", meaning)


_ON_THE_HOST = (
    _fault(
        "configuration",
        "A configuration file does not exist or has a mistake.",
        *("node-problem", "node-down", "answer"),
    ),
    _fault(
        "disk-full",
        "A disk has no room for the files that mdmw must write.",
        *("options-missing", "dhcp-dead", "node-problem"),
    ),
    _fault(
        "conntrack-full", "The connection tracking table of the kernel is full, and the kernel drops packets."
    ),
    _fault("file-limit", "A process has opened almost all files that it may open.", "listener-hung"),
    _fault("node-down", "mdmw-node does not run.", *_INSIDE),
    _fault("node-hung", "mdmw-node runs, but does not answer.", *_INSIDE),
    _fault("workers-missing", "mdmw-node has no workers.", *_LISTENING),
    _fault("worker-stopped", "A worker of mdmw-node is stopped (SIGSTOP).", "listener-hung"),
)
_IN_A_NAMESPACE = (
    _fault("namespace-missing", "A network namespace does not exist.", *_INSIDE, "node-problem"),
    _fault(
        "device-missing",
        "The network device of a DHCP port or of a router does not exist.",
        *(*_INSIDE, "node-problem"),
    ),
    _fault("device-down", "The network device of a DHCP port or of a router is down.", *_INSIDE),
    _fault("address-missing", "An address is missing on a network device.", "listener-hung", "node-problem"),
    _warning("address-duplicate", "Another host of the network has the IPv6 metadata address."),
    _fault("route-missing", "The namespace has no route to other subnets of its guests."),
    _warning("sysctl", "A kernel setting of the namespace differs from the plan."),
    _fault("options-missing", "DHCP does not send guests the route to the metadata address."),
    _fault("dhcp-dead", "dnsmasq, or the radvd of a router, does not run."),
    _fault("rules-missing", "The packet-filter rules do not redirect packets to the listener of the router."),
    _fault("listener-foreign", "Another program listens at the metadata address.", "listener-hung"),
    _fault("listener-missing", "No process listens at the metadata address."),
    _fault("listener-hung", "The process that listens at the metadata address does not answer."),
    _warning("backlog-overflow", "The kernel refused connections because no process accepted them in time."),
)
_BEHIND_THE_PROXY = (
    _fault("socket-missing", "The socket of the agent does not exist.", *_AGENT, "answer"),
    _fault("socket-forbidden", "The proxies may not connect to the socket of the agent.", "answer"),
    _fault("agent-down", "No process listens at the socket of the agent.", "answer"),
    _fault("agent-full", "The agent does not accept connections, and its backlog is full.", "answer"),
    _fault("agent-hung", "The agent does not answer.", "answer"),
    _fault("keystone", "Keystone gives no token.", "neutron", "answer"),
    _fault("neutron", "Neutron or the inventory does not answer questions.", "answer"),
    _fault("unknown-address", "No instance has this address on this network.", "answer"),
    _fault("duplicate-address", "Several machines have the same address.", "answer"),
    _warning("clock", "The clocks of this host and of another host differ."),
    _fault("certificate-expired", "A certificate has expired or is not valid yet.", *_NOVA, "answer"),
    _warning("certificate-ends", "A certificate expires soon."),
    _fault("nova-unreachable", "No connection to the metadata API of Nova is possible.", "answer"),
    _fault("nova-slow", "The metadata API of Nova is slow.", "answer"),
    _fault("wrong-secret", "Nova refuses the signature.", "answer"),
    _fault("nova-error", "The metadata API of Nova answers with a server error.", "answer"),
    _fault("nova-answer", "The metadata API of Nova gives an unexpected answer.", "answer"),
    _fault("answer", "All checks succeed, but a guest gets no metadata."),
    _fault("node-problem", "mdmw-node reports a problem that a person must solve."),
)

#: By name, in the order in which a packet meets the faults; the faults of the whole host come first.
KINDS = {kind.name: kind for kind in (*_ON_THE_HOST, *_IN_A_NAMESPACE, *_BEHIND_THE_PROXY)}
_POSITION = {name: number for number, name in enumerate(KINDS)}


def causes(findings: Sequence[Finding]) -> list[Cause]:
    """Faults before warnings, each in the order of the way of a packet; each cause has its consequences."""
    in_order = sorted(dict.fromkeys(findings), key=_rank)
    consequences: dict[Finding, list[Finding]] = {}
    for finding in in_order:
        cause = finding
        while (earlier := next((other for other in in_order if _explains(other, cause)), None)) is not None:
            cause = earlier
        consequences.setdefault(cause, [])
        consequences[cause] += [finding] if finding is not cause else []
    return [Cause(cause, tuple(consequences[cause])) for cause in in_order if cause in consequences]


def _rank(finding: Finding) -> tuple[int, int, str]:
    return _SEVERITIES.index(finding.severity), _POSITION[finding.kind], finding.where


def _explains(cause: Finding, other: Finding) -> bool:
    """Only a kind that is later on the way can be a consequence."""
    if _POSITION[other.kind] <= _POSITION[cause.kind]:
        return False
    is_same_namespace = not cause.namespace or not other.namespace or cause.namespace == other.namespace
    return is_same_namespace and other.kind in KINDS[cause.kind].explains
