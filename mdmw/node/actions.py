"""What can be done to a node, as values: `difference` makes them, `apply` does them.

Each prints as one line. Doing one again does no harm, so that a crash at any point heals
on the next run.
"""

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from mdmw.node.plan import Wire
from mdmw.node.rules import RouterRules

Firewall = Literal["nftables", "iptables"]
FIREWALLS: tuple[Firewall, ...] = ("nftables", "iptables")


@dataclass(frozen=True, slots=True)
class Ours:
    """What mdmw made in and for a namespace, kept in a file so that it can be taken away again.

    `things` are words: "namespace", "device NAME" (on the host), "address DEVICE ADDRESS",
    "rules FIREWALL", "options", "dnsmasq", "radvd". `lost_ipv6` is when another node was found to have
    the IPv6 metadata address of the network, in seconds since 1970.
    """

    things: frozenset[str] = frozenset()
    lost_ipv6: float | None = None


@dataclass(frozen=True, slots=True)
class Remember:
    """Done before anything is made, and after everything is taken away."""

    namespace: str
    ours: Ours

    def __str__(self) -> str:
        return f"{self.namespace}: remember as made here: {', '.join(sorted(self.ours.things)) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class MakeNamespace:
    """`ip netns add`, and `lo` up."""

    namespace: str

    def __str__(self) -> str:
        return f"{self.namespace}: make the namespace"


@dataclass(frozen=True, slots=True)
class RemoveNamespace:
    """`ip netns delete`."""

    namespace: str

    def __str__(self) -> str:
        return f"{self.namespace}: remove the namespace"


@dataclass(frozen=True, slots=True)
class MakeCable:
    """A pair of veth devices from the namespace to a bridge."""

    namespace: str
    wire: Wire

    def __str__(self) -> str:
        return f"{self.namespace}: make {self.wire.device}, a cable to {self.wire.bridge}"


@dataclass(frozen=True, slots=True)
class RemoveDevice:
    """A device of the host, and with it the end in the namespace."""

    namespace: str
    device: str

    def __str__(self) -> str:
        return f"{self.namespace}: remove {self.device} of the host"


@dataclass(frozen=True, slots=True)
class Attach:
    """A device of the host becomes a port of a bridge, and goes up."""

    namespace: str
    device: str
    bridge: str

    def __str__(self) -> str:
        return f"{self.namespace}: attach {self.device} of the host to {self.bridge}"


@dataclass(frozen=True, slots=True)
class BringUp:
    """A device goes up."""

    namespace: str
    device: str

    def __str__(self) -> str:
        return f"{self.namespace}: bring {self.device} up"


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """A value below /proc/sys/net."""

    namespace: str
    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.namespace}: set net/{self.name} to {self.value}"


@dataclass(frozen=True, slots=True)
class AddAddress:
    """An address with prefix length."""

    namespace: str
    device: str
    address: str

    def __str__(self) -> str:
        return f"{self.namespace}: add {self.address} to {self.device}"


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """P-5, and 4.8 for `duplicate`: another node on this network has it."""

    namespace: str
    device: str
    address: str
    duplicate: bool = False

    def __str__(self) -> str:
        why = ", which is another node's on this network; IPv4 goes on" if self.duplicate else ""
        return f"{self.namespace}: remove {self.address} from {self.device}{why}"


@dataclass(frozen=True, slots=True)
class AddRoute:
    """The default route of an IP version (P-6)."""

    namespace: str
    device: str
    gateway: str

    def __str__(self) -> str:
        return f"{self.namespace}: default route through {self.gateway} on {self.device}"


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    """The default route of an IP version."""

    namespace: str
    device: str
    gateway: str

    def __str__(self) -> str:
        return f"{self.namespace}: remove the default route through {self.gateway} on {self.device}"


@dataclass(frozen=True, slots=True)
class SetRules:
    """All rules of ours, as one transaction."""

    namespace: str
    firewall: Firewall
    rules: RouterRules

    def __str__(self) -> str:
        return f"{self.namespace}: set the rules ({self.firewall})"


@dataclass(frozen=True, slots=True)
class RemoveRules:
    """All rules of ours."""

    namespace: str
    firewall: Firewall

    def __str__(self) -> str:
        return f"{self.namespace}: remove the rules ({self.firewall})"


@dataclass(frozen=True, slots=True)
class WriteFile:
    """A file that is either the old or the new one, whatever happens."""

    namespace: str
    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.namespace}: write {self.path}"


@dataclass(frozen=True, slots=True)
class RemoveFiles:
    """A directory of ours."""

    namespace: str
    path: Path

    def __str__(self) -> str:
        return f"{self.namespace}: remove {self.path}"


@dataclass(frozen=True, slots=True)
class StartProgram:
    """A program in the namespace, with its pid file."""

    namespace: str
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.namespace}: start {_name(self.argv)}"


@dataclass(frozen=True, slots=True)
class StopProgram:
    """The process that has this command line; its id is looked up in the pid file again."""

    namespace: str
    pid_file: Path
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.namespace}: stop {_name(self.argv)}"


@dataclass(frozen=True, slots=True)
class ReloadProgram:
    """SIGHUP: the program reads its files again."""

    namespace: str
    pid_file: Path
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.namespace}: tell {_name(self.argv)} to read its files again"


def _name(argv: tuple[str, ...]) -> str:
    return PurePath(argv[0]).name


Action = (
    Remember
    | MakeNamespace
    | RemoveNamespace
    | MakeCable
    | RemoveDevice
    | Attach
    | BringUp
    | SetSysctl
    | AddAddress
    | RemoveAddress
    | AddRoute
    | RemoveRoute
    | SetRules
    | RemoveRules
    | WriteFile
    | RemoveFiles
    | StartProgram
    | StopProgram
    | ReloadProgram
)
