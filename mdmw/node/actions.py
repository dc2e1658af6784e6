"""The changes that can be made to a node, as values. `difference` makes the values, `apply` does the changes.

`str` of an action is one line for the log. An action may be done twice without harm, so that the next run
repairs what a crash at any point has left.
"""

from dataclasses import dataclass
from pathlib import Path, PurePath

from mdmw.node.desired import Firewall
from mdmw.node.plan import RouterRules, Wire


@dataclass(frozen=True, slots=True)
class Marker:
    """What mdmw made in and for a namespace. A file keeps it, so that mdmw can remove its things again.

    `things` are words: "namespace", "device NAME" (on the host), "address DEVICE ADDRESS", "rules FIREWALL",
    "options", "dnsmasq", "radvd". `lost_ipv6` is when another node was found to have the IPv6 metadata
    address of the network, in seconds since 1970.
    """

    things: frozenset[str] = frozenset()
    lost_ipv6: float | None = None


@dataclass(frozen=True, slots=True)
class WriteMarker:
    """Record what mdmw made: before anything is made, and after everything is removed."""

    namespace: str
    marker: Marker

    def __str__(self) -> str:
        return f"{self.namespace}: record as made here: {', '.join(sorted(self.marker.things)) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class MakeNamespace:
    """Make a named namespace, and bring its `lo` up."""

    namespace: str

    def __str__(self) -> str:
        return f"{self.namespace}: make the namespace"


@dataclass(frozen=True, slots=True)
class RemoveNamespace:
    """Remove the name of a namespace."""

    namespace: str

    def __str__(self) -> str:
        return f"{self.namespace}: remove the namespace"


@dataclass(frozen=True, slots=True)
class MakeWire:
    """Make a veth pair from the namespace to a bridge."""

    namespace: str
    wire: Wire

    def __str__(self) -> str:
        return f"{self.namespace}: make {self.wire.device}, connected to {self.wire.bridge}"


@dataclass(frozen=True, slots=True)
class RemoveDevice:
    """Remove a device of the host, and with it its other end in the namespace."""

    namespace: str
    device: str

    def __str__(self) -> str:
        return f"{self.namespace}: remove {self.device} from the host"


@dataclass(frozen=True, slots=True)
class Attach:
    """Make a device of the host a port of a bridge, and bring it up."""

    namespace: str
    device: str
    bridge: str

    def __str__(self) -> str:
        return f"{self.namespace}: attach {self.device} on the host to {self.bridge}"


@dataclass(frozen=True, slots=True)
class BringUp:
    """Bring a device up."""

    namespace: str
    device: str

    def __str__(self) -> str:
        return f"{self.namespace}: bring {self.device} up"


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Set a value below /proc/sys/net."""

    namespace: str
    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.namespace}: set net/{self.name} to {self.value}"


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Add an address with prefix length to a device."""

    namespace: str
    device: str
    address: str

    def __str__(self) -> str:
        return f"{self.namespace}: add {self.address} to {self.device}"


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """Remove an address (P-5); with `duplicate` because another node on the network has it (spec 4.8)."""

    namespace: str
    device: str
    address: str
    duplicate: bool = False

    def __str__(self) -> str:
        why = ", because another node on this network has it; IPv4 goes on" if self.duplicate else ""
        return f"{self.namespace}: remove {self.address} from {self.device}{why}"


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Add the default route of an IP version (P-6)."""

    namespace: str
    device: str
    gateway: str

    def __str__(self) -> str:
        return f"{self.namespace}: add the default route through {self.gateway} on {self.device}"


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    """Remove the default route of an IP version."""

    namespace: str
    device: str
    gateway: str

    def __str__(self) -> str:
        return f"{self.namespace}: remove the default route through {self.gateway} on {self.device}"


@dataclass(frozen=True, slots=True)
class SetRules:
    """Replace all packet-filter rules of mdmw."""

    namespace: str
    firewall: Firewall
    rules: RouterRules

    def __str__(self) -> str:
        return f"{self.namespace}: set the rules ({self.firewall})"


@dataclass(frozen=True, slots=True)
class RemoveRules:
    """Remove all packet-filter rules of mdmw."""

    namespace: str
    firewall: Firewall

    def __str__(self) -> str:
        return f"{self.namespace}: remove the rules ({self.firewall})"


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Write a file. After a crash the file is either the old or the new one."""

    namespace: str
    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.namespace}: write {self.path}"


@dataclass(frozen=True, slots=True)
class RemoveFiles:
    """Remove a directory of mdmw with its files."""

    namespace: str
    path: Path

    def __str__(self) -> str:
        return f"{self.namespace}: remove {self.path}"


@dataclass(frozen=True, slots=True)
class StartProgram:
    """Start a program in the namespace."""

    namespace: str
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.namespace}: start {_name(self.argv)}"


@dataclass(frozen=True, slots=True)
class StopProgram:
    """End the process in the pid file, if it has this command line."""

    namespace: str
    pid_file: Path
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.namespace}: stop {_name(self.argv)}"


@dataclass(frozen=True, slots=True)
class ReloadProgram:
    """Send SIGHUP to the process in the pid file, if it has this command line: it reads its files again."""

    namespace: str
    pid_file: Path
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.namespace}: tell {_name(self.argv)} to read its files again"


def _name(argv: tuple[str, ...]) -> str:
    return PurePath(argv[0]).name


Action = (
    WriteMarker
    | MakeNamespace
    | RemoveNamespace
    | MakeWire
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
