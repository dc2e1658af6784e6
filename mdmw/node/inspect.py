"""What is there, in one namespace and around it. Changes nothing."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mdmw.node import firewall, network_state
from mdmw.node.actions import Ours
from mdmw.node.network_state import Device
from mdmw.node.programs import NONLOCAL_BIND, Places, Wanted

_PID_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Observed:
    """`host`: devices of the host that matter. `rules_set`: whether the wanted rules are there, exactly.

    `sysctls` and `files` have None for what does not exist; `program` is the command line of the
    running dnsmasq or radvd, or None.
    """

    exists: bool = False
    ours: Ours = field(default_factory=Ours)
    host: Mapping[str, Device] = field(default_factory=dict)
    devices: Mapping[str, Device] = field(default_factory=dict)
    routes: frozenset[tuple[str, str]] = frozenset()
    sysctls: Mapping[str, str | None] = field(default_factory=dict)
    rules_set: bool = True
    files: Mapping[Path, str | None] = field(default_factory=dict)
    program: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Within:
    """What only a thread in the namespace can see."""

    devices: Mapping[str, Device] = field(default_factory=dict)
    routes: frozenset[tuple[str, str]] = frozenset()
    sysctls: Mapping[str, str | None] = field(default_factory=dict)
    rules_set: bool = False


def observe(wanted: Wanted, places: Places) -> Observed:
    """As far as it matters for what is wanted; raises OSError and `CommandError`."""
    exists = network_state.is_whole(wanted.namespace)
    within = network_state.inside(wanted.namespace, lambda: _within(wanted, places)) if exists else _Within()
    ours = read_marker(places.marker(wanted.namespace))
    theirs = None if "namespace" in ours.things else wanted.neutron_options
    directory = theirs.directory if theirs else places.state / wanted.namespace
    return Observed(
        exists=exists,
        ours=ours,
        host=_host(wanted, ours),
        devices=within.devices,
        routes=within.routes,
        sysctls=_with_fallback(within.sysctls),
        rules_set=within.rules_set,
        files={path: _text(path) for path in _files(wanted)},
        program=_program(directory),
    )


def _host(wanted: Wanted, ours: Ours) -> dict[str, Device]:
    names = {name for wire in wanted.wires for name in (wire.bridge, wire.outer)}
    names |= {thing.split()[1] for thing in ours.things if thing.startswith("device ")}
    return {name: device for name in names if (device := network_state.read_device(name))}


def _within(wanted: Wanted, places: Places) -> _Within:
    return _Within(
        devices=network_state.devices(),
        routes=network_state.default_routes() if wanted.wires else frozenset(),
        sysctls={name: network_state.sysctl(name) for name in wanted.sysctls},
        rules_set=wanted.rules is None or firewall.is_set(places.firewall, wanted.rules),
    )


def _with_fallback(sysctls: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """P-3: the host's value counts where a namespace has none of its own."""
    if NONLOCAL_BIND in sysctls and sysctls[NONLOCAL_BIND] is None:
        return {**sysctls, NONLOCAL_BIND: network_state.sysctl(NONLOCAL_BIND)}
    return sysctls


def _files(wanted: Wanted) -> list[Path]:
    if wanted.program:
        return [path for path, _ in wanted.program.files]
    return [wanted.neutron_options.path] if wanted.neutron_options else []


def read_marker(path: Path) -> Ours:
    """What a file says that we made; nothing if there is no such file."""
    text = _text(path)
    if text is None:
        return Ours()
    try:
        content = json.loads(text)
        lost = content["lost_ipv6"]
        return Ours(frozenset(map(str, content["things"])), None if lost is None else float(lost))
    except (ValueError, LookupError, TypeError):
        raise OSError(f"{path}: cannot be understood; remove it, and what it spoke of by hand") from None


def process_id(pid_file: Path) -> int | None:
    """What a pid file says; the process may be dead, or another by now."""
    text = (_text(pid_file) or "").strip()
    return int(text) if text.isdecimal() and len(text) < _PID_DIGITS else None


def command_line(pid: int) -> tuple[str, ...] | None:
    """Of a living process."""
    raw = _text(Path(f"/proc/{pid}/cmdline"))
    return tuple(raw.rstrip("\0").split("\0")) if raw else None


def _program(directory: Path) -> tuple[str, ...] | None:
    """Its command line, if the process in the pid file is one that works in `directory` (P-12)."""
    pid = process_id(directory / "pid")
    found = None if pid is None else command_line(pid)
    return found if any(f"{directory}/" in word for word in found or ()) else None


def _text(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return path.read_text(errors="replace")
    return None
