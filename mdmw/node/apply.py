"""Doing what `difference` found."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

from mdmw.node import firewall, kernel
from mdmw.node.actions import (
    Action,
    AddAddress,
    AddRoute,
    Attach,
    BringUp,
    MakeCable,
    MakeNamespace,
    Ours,
    ReloadProgram,
    Remember,
    RemoveAddress,
    RemoveDevice,
    RemoveFiles,
    RemoveNamespace,
    RemoveRoute,
    RemoveRules,
    SetRules,
    SetSysctl,
    StartProgram,
    StopProgram,
    WriteFile,
)
from mdmw.node.inspect import command_line, process_id
from mdmw.node.namespaces import CommandError
from mdmw.node.network_state import inside
from mdmw.node.programs import NONLOCAL_BIND, Places

_PATIENCE = 5.0  # seconds from SIGTERM to SIGKILL (P-13)
_DIRECTORY, _FILE = 0o755, 0o644  # the programs read them as users of their own


def apply(action: Action, places: Places) -> None:
    """Do it; raises OSError and `CommandError`."""
    name = action.namespace
    match action:
        case Remember(ours=ours):
            _remember(places.marker(name), ours)
        case MakeNamespace():
            kernel.make_namespace(name)
        case RemoveNamespace():
            kernel.remove_namespace(name)
        case MakeCable(wire=wire):
            kernel.remove_device(wire.outer)
            inside(name, lambda: kernel.remove_device(wire.device))
            kernel.make_cable(name, wire)
        case RemoveDevice(device=device):
            kernel.remove_device(device)
        case Attach(device=device, bridge=bridge):
            kernel.attach(device, bridge)
        case BringUp(device=device):
            inside(name, lambda: kernel.bring_up(device))
        case SetSysctl(name=sysctl, value=value):
            there = inside(action.namespace, lambda: kernel.set_sysctl(sysctl, value))
            if not there and sysctl == NONLOCAL_BIND:
                kernel.set_sysctl(sysctl, value)
        case AddAddress(device=device, address=address):
            inside(name, lambda: kernel.add_address(device, address))
        case RemoveAddress(device=device, address=address):
            inside(name, lambda: kernel.remove_address(device, address))
        case AddRoute(device=device, gateway=gateway):
            inside(name, lambda: kernel.set_default_route(device, gateway))
        case RemoveRoute(device=device, gateway=gateway):
            inside(name, lambda: kernel.remove_default_route(device, gateway))
        case SetRules(firewall=kind, rules=rules):
            inside(name, lambda: firewall.set_rules(kind, rules))
        case RemoveRules(firewall=kind):
            inside(name, lambda: firewall.remove_rules(kind))
        case WriteFile(path=path, text=text):
            write(path, text)
        case RemoveFiles(path=path):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
        case StartProgram(argv=argv):
            inside(name, lambda: _start(argv))
        case StopProgram(pid_file=pid_file, argv=argv):
            _stop(pid_file, argv)
        case ReloadProgram(pid_file=pid_file, argv=argv):
            _reload(pid_file, argv)
        case _:
            assert_never(action)


def write(path: Path, text: str) -> None:
    """The file is the old one or the new one, whatever happens; it keeps its owner and mode."""
    path.parent.mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            _take_after(path, stream.fileno())
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _take_after(path: Path, descriptor: int) -> None:
    try:
        old = path.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, _FILE)
    else:
        os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, old.st_mode & 0o777)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remember(path: Path, ours: Ours) -> None:
    if ours == Ours():
        path.unlink(missing_ok=True)
    else:
        write(path, json.dumps({"things": sorted(ours.things), "lost_ipv6": ours.lost_ipv6}) + "\n")


def _start(argv: tuple[str, ...]) -> None:
    """It goes into the background once it serves."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603 - no shell
    if done.returncode:
        raise CommandError(f"{argv[0]} does not start: {' '.join(done.stderr.split())}")


def _stop(pid_file: Path, argv: tuple[str, ...]) -> None:
    """P-13."""
    with _process(pid_file, argv) as process, contextlib.suppress(ProcessLookupError):
        if process is None:
            return
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], _PATIENCE)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)


def _reload(pid_file: Path, argv: tuple[str, ...]) -> None:
    with _process(pid_file, argv) as process, contextlib.suppress(ProcessLookupError):
        if process is not None:
            signal.pidfd_send_signal(process, signal.SIGHUP)


@contextlib.contextmanager
def _process(pid_file: Path, argv: tuple[str, ...]) -> Iterator[int | None]:
    """A pidfd of the process, if it still is the one with this command line; ids are used again."""
    pid = process_id(pid_file)
    try:
        descriptor = os.pidfd_open(pid) if pid else None
    except ProcessLookupError:
        descriptor = None
    try:
        yield descriptor if pid and command_line(pid) == argv else None
    finally:
        if descriptor is not None:
            os.close(descriptor)
