"""The observed state: what a namespace, the host around it and the files of mdmw have. Changes nothing."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mdmw.node import firewall, network_state
from mdmw.node.actions import Marker
from mdmw.node.desired import NONLOCAL_BIND, DesiredState, Places
from mdmw.node.network_state import NetworkDevice

_PID_DIGITS = 10


@dataclass(frozen=True, slots=True)
class ObservedState:
    """What was found for one namespace.

    `marker` is what mdmw recorded as made. `host` has the devices of the host that matter for the namespace.
    `rules_set` says whether exactly the desired rules are there. `sysctls` and `files` have None for what
    does not exist. `program` is the command line of the running dnsmasq or radvd, or None.
    """

    exists: bool = False
    marker: Marker = field(default_factory=Marker)
    host: Mapping[str, NetworkDevice] = field(default_factory=dict)
    devices: Mapping[str, NetworkDevice] = field(default_factory=dict)
    routes: frozenset[tuple[str, str]] = frozenset()
    sysctls: Mapping[str, str | None] = field(default_factory=dict)
    rules_set: bool = True
    files: Mapping[Path, str | None] = field(default_factory=dict)
    program: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Inside:
    """What only a thread in the namespace can read."""

    devices: Mapping[str, NetworkDevice] = field(default_factory=dict)
    routes: frozenset[tuple[str, str]] = frozenset()
    sysctls: Mapping[str, str | None] = field(default_factory=dict)
    rules_set: bool = False


def observe(desired: DesiredState, places: Places) -> ObservedState:
    """The state of a namespace, as far as the desired state needs it; raises OSError and `CommandError`."""
    exists = network_state.is_namespace(desired.namespace)
    inside = (
        network_state.inside(desired.namespace, lambda: _look_inside(desired, places))
        if exists
        else _Inside()
    )
    marker = read_marker(places.marker(desired.namespace))
    neutron = None if "namespace" in marker.things else desired.neutron_options
    directory = neutron.directory if neutron else places.state / desired.namespace
    return ObservedState(
        exists=exists,
        marker=marker,
        host=_host(desired, marker),
        devices=inside.devices,
        routes=inside.routes,
        sysctls=_with_fallback(inside.sysctls),
        rules_set=inside.rules_set,
        files={path: _text(path) for path in _files(desired)},
        program=_program(directory),
    )


def _host(desired: DesiredState, marker: Marker) -> dict[str, NetworkDevice]:
    names = {name for wire in desired.wires for name in (wire.bridge, wire.outer)}
    names |= {thing.split()[1] for thing in marker.things if thing.startswith("device ")}
    return {name: device for name in names if (device := network_state.read_device(name))}


def _look_inside(desired: DesiredState, places: Places) -> _Inside:
    return _Inside(
        devices=network_state.devices(),
        routes=network_state.default_routes() if desired.wires else frozenset(),
        sysctls={name: network_state.sysctl(name) for name in desired.sysctls},
        rules_set=desired.rules is None or firewall.is_set(places.firewall, desired.rules),
    )


def _with_fallback(sysctls: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """The sysctls, with the host's value where the namespace has no value of its own (P-3)."""
    if NONLOCAL_BIND in sysctls and sysctls[NONLOCAL_BIND] is None:
        return {**sysctls, NONLOCAL_BIND: network_state.sysctl(NONLOCAL_BIND)}
    return sysctls


def _files(desired: DesiredState) -> list[Path]:
    if desired.program:
        return [path for path, _ in desired.program.files]
    return [desired.neutron_options.path] if desired.neutron_options else []


def read_marker(path: Path) -> Marker:
    """What a file records as made; nothing without the file. Raises OSError."""
    text = _text(path)
    if text is None:
        return Marker()
    try:
        content = json.loads(text)
        lost = content["lost_ipv6"]
        return Marker(frozenset(map(str, content["things"])), None if lost is None else float(lost))
    except (ValueError, LookupError, TypeError):
        raise OSError(
            f"{path}: the file is damaged; remove the file, and what mdmw made for this namespace, by hand"
        ) from None


def process_id(pid_file: Path) -> int | None:
    """The process id in a pid file, or None. The process may have ended, and its id may be used again."""
    text = (_text(pid_file) or "").strip()
    return int(text) if text.isdecimal() and len(text) < _PID_DIGITS else None


def command_line(pid: int) -> tuple[str, ...] | None:
    """The command line of a process; None when there is no such process."""
    raw = _text(Path(f"/proc/{pid}/cmdline"))
    return tuple(raw.rstrip("\0").split("\0")) if raw else None


def _program(directory: Path) -> tuple[str, ...] | None:
    """The command line of the process in the pid file, if it names a file in `directory` (P-12)."""
    pid = process_id(directory / "pid")
    found = None if pid is None else command_line(pid)
    return found if any(f"{directory}/" in word for word in found or ()) else None


def _text(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return path.read_text(errors="replace")
    return None
