"""Does the actions that `difference` found. The only module that imports pyroute2, which takes 20 MiB."""

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_never

from pyroute2 import netns
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from mdmw.node import actions, firewall
from mdmw.node.actions import Action, Marker
from mdmw.node.desired import NONLOCAL_BIND, Places
from mdmw.node.inspect import command_line, process_id
from mdmw.node.namespaces import RUN_NETNS, CommandError, run
from mdmw.node.network_state import SYSCTLS, inside, is_namespace
from mdmw.node.plan import Wire
from mdmw.wire import one_line

_PATIENCE = 5.0  # seconds from SIGTERM to SIGKILL (P-13)
_DIRECTORY, _FILE = 0o755, 0o644  # dnsmasq and radvd read the files as users of their own
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ONLINK = 0x4  # linux/rtnetlink.h
_GONE = (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)


def apply(action: Action, places: Places) -> None:
    """Do an action; raises OSError and `CommandError`."""
    name = action.namespace
    match action:
        case actions.WriteMarker(marker=marker):
            _write_marker(places.marker(name), marker)
        case actions.MakeNamespace():
            _make_namespace(name)
        case actions.RemoveNamespace():
            _remove_namespace(name)
        case actions.MakeWire(wire=wire):
            _remove_device(wire.outer)
            inside(name, lambda: _remove_device(wire.device))
            _make_wire(name, wire)
        case actions.RemoveDevice(device=device):
            _remove_device(device)
        case actions.Attach(device=device, bridge=bridge):
            _attach(device, bridge)
        case actions.BringUp(device=device):
            inside(name, lambda: _bring_up(device))
        case actions.SetSysctl(name=sysctl, value=value):
            is_set = inside(action.namespace, lambda: _set_sysctl(sysctl, value))
            if not is_set and sysctl == NONLOCAL_BIND:
                _set_sysctl(sysctl, value)
        case actions.AddAddress(device=device, address=address):
            inside(name, lambda: _add_address(device, address))
        case actions.RemoveAddress(device=device, address=address):
            inside(name, lambda: _remove_address(device, address))
        case actions.AddRoute(device=device, gateway=gateway):
            inside(name, lambda: _set_default_route(device, gateway))
        case actions.RemoveRoute(device=device, gateway=gateway):
            inside(name, lambda: _remove_default_route(device, gateway))
        case actions.SetRules(firewall=kind, rules=rules):
            inside(name, lambda: firewall.set_rules(kind, rules))
        case actions.RemoveRules(firewall=kind):
            inside(name, lambda: firewall.remove_rules(kind))
        case actions.WriteFile(path=path, text=text):
            write(path, text)
        case actions.RemoveFiles(path=path):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
        case actions.StartProgram(argv=argv):
            inside(name, lambda: _start(argv))
        case actions.StopProgram(pid_file=pid_file, argv=argv):
            _stop(pid_file, argv)
        case actions.ReloadProgram(pid_file=pid_file, argv=argv):
            _reload(pid_file, argv)
        case _:
            assert_never(action)


# --- namespaces -------------------------------------------------------------------------


def _make_namespace(namespace: str) -> None:
    """Make a namespace with `lo` up. A namespace that exists stays."""
    if not is_namespace(namespace):
        (RUN_NETNS / namespace).unlink(missing_ok=True)
        run("ip", "netns", "add", namespace)  # pyroute2 forks this process and gives the child two seconds
    inside(namespace, lambda: _bring_up("lo"))


def _remove_namespace(namespace: str) -> None:
    """Remove the name of a namespace. The namespace lives until no process and no socket is in it."""
    with contextlib.suppress(FileNotFoundError):
        netns.remove(namespace)


# --- devices, addresses, routes, sysctls ------------------------------------------------


def _make_wire(namespace: str, wire: Wire) -> None:
    """Make a veth pair from a namespace to the namespace of this thread."""
    peer: dict[str, Any] = {"ifname": wire.device, "net_ns_fd": namespace, "address": wire.mac}
    outer: dict[str, Any] = {"ifname": wire.outer, "kind": "veth"}
    if wire.mtu:
        peer["mtu"] = outer["mtu"] = wire.mtu
    with _netlink() as ip:
        ip.link("add", **outer, peer=peer)


def _attach(device: str, bridge: str) -> None:
    """Make a device a port of a bridge, and bring it up."""
    with _netlink() as ip:
        ip.link("set", index=_index(ip, device), master=_index(ip, bridge), state="up")


def _bring_up(device: str) -> None:
    """Bring a device up."""
    with _netlink() as ip:
        ip.link("set", index=_index(ip, device), state="up")


def _remove_device(device: str) -> None:
    """Remove a device, if it exists."""
    with _netlink() as ip, contextlib.suppress(FileNotFoundError):
        ip.link("delete", index=_index(ip, device))


def _add_address(device: str, address: str) -> None:
    """Add an address. An address that the device has stays as it is."""
    text, _, length = address.partition("/")
    with contextlib.suppress(FileExistsError), _netlink() as ip:
        ip.addr("add", index=_index(ip, device), family=_family(text), address=text, prefixlen=int(length))


def _remove_address(device: str, address: str) -> None:
    """Remove an address, if the device has it."""
    text, _, length = address.partition("/")
    with _already_gone(), _netlink() as ip:
        ip.addr("delete", index=_index(ip, device), family=_family(text), address=text, prefixlen=int(length))


def _set_default_route(device: str, gateway: str) -> None:
    """Set or replace the default route. The gateway need not be in a subnet of the device."""
    with _netlink() as ip:
        ip.route("replace", **_route(ip, device, gateway), flags=_ONLINK)


def _remove_default_route(device: str, gateway: str) -> None:
    """Remove a default route, if it exists."""
    with _already_gone(), _netlink() as ip:
        ip.route("delete", **_route(ip, device, gateway))


def _set_sysctl(name: str, value: str) -> bool:
    """Set a value below /proc/sys/net for this thread's namespace; False if the kernel has no such value."""
    try:
        with (SYSCTLS / name).open("r+") as file:  # "w" would make the file
            file.write(value)
    except FileNotFoundError:
        return False
    return True


def _route(ip: Any, device: str, gateway: str) -> dict[str, Any]:
    family = _family(gateway)
    anywhere = "0.0.0.0/0" if family == socket.AF_INET else "::/0"
    return {"dst": anywhere, "gateway": gateway, "oif": _index(ip, device), "family": family}


def _family(address: str) -> int:
    return _FAMILIES[6 if ":" in address else 4]


def _index(ip: Any, device: str) -> int:
    found = ip.link_lookup(ifname=device)
    if not found:
        raise FileNotFoundError(2, "no such device", device)
    index: int = found[0]
    return index


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    """pyroute2 in the namespace of this thread; its errors become OSError."""
    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise OSError(error.code, error.args[-1]) from None


@contextlib.contextmanager
def _already_gone() -> Iterator[None]:
    """Ignore an error that says that the thing to remove does not exist."""
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise


# --- files ------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    """Write a file, which keeps its owner and mode; raises OSError.

    After a crash the file is either the old or the new one.
    """
    path.parent.mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            _copy_owner(path, stream.fileno())
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _copy_owner(path: Path, descriptor: int) -> None:
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


def _write_marker(path: Path, marker: Marker) -> None:
    if marker == Marker():
        path.unlink(missing_ok=True)
    else:
        write(path, json.dumps({"things": sorted(marker.things), "lost_ipv6": marker.lost_ipv6}) + "\n")


# --- programs ---------------------------------------------------------------------------


def _start(argv: tuple[str, ...]) -> None:
    """Start a program, and wait until it has gone into the background because it serves."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603 - no shell
    if done.returncode:
        raise CommandError(f"{argv[0]} does not start: {one_line(done.stderr.strip())}")


def _stop(pid_file: Path, argv: tuple[str, ...]) -> None:
    """End a program: SIGTERM, and SIGKILL if it still lives after 5 seconds (P-13)."""
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
    """A pidfd of the process in the pid file; None if its command line is not `argv`."""
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
