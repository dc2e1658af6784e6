"""One namespace, seen from inside: devices, addresses, DHCP, rules, listeners, and what was refused."""

import contextlib
import re
import shlex
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mdmw.boundary.peer import neighbour_mac
from mdmw.doctor.deployment import peer
from mdmw.doctor.findings import Finding
from mdmw.doctor.places import Place
from mdmw.doctor.processes import Listening, listening, obstacle, overflows
from mdmw.node import actions, network_state
from mdmw.node.difference import difference
from mdmw.node.inspect import command_line, observe, process_id
from mdmw.node.namespaces import Bind, CommandError
from mdmw.node.network_state import Device
from mdmw.node.programs import Places
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6

ANSWER_WITHIN = 0.7  # seconds, for what is on this host
_NONSENSE = b"?\r\n\r\n"  # who listens refuses it by itself, and asks nobody
_SO_MARK = 36  # asm-generic/socket.h
_COMMAND_WITHIN = 1.0
_NEARLY_FULL = 0.95
_REDIRECT = re.compile(r"\[([0-9]+):[0-9]+\] .* -d 169\.254\.169\.254/32 .*-j REDIRECT --to-ports ([0-9]+)")
_ROUTE_OPTIONS = frozenset({"option:classless-static-route", "121"})
_NEUTRONS = ("namespace-missing", "device-missing", "dhcp-dead")  # unless the devices are ours
_GUEST_DEVICES = {"qdhcp-": ("tap", "ns-"), "qrouter-": ("qr-",)}

#: What the plan would do -> what is wrong.
_MEANING: dict[type[actions.Action], str] = {
    actions.MakeNamespace: "namespace-missing",
    actions.MakeCable: "device-missing",
    actions.Attach: "device-down",
    actions.BringUp: "device-down",
    actions.SetSysctl: "sysctl",
    actions.AddAddress: "address-missing",
    actions.AddRoute: "route-missing",
    actions.SetRules: "rules-missing",
    actions.WriteFile: "options-missing",
    actions.StartProgram: "dhcp-dead",
}


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for all namespaces. `source`: the words that tell `mdmw node` what to plan from.

    `mark` is that of a router's packets to the metadata address; `guest` an address to look for, or empty.
    """

    places: Places
    source: str = ""
    mark: int = 1
    guest: str = ""
    state_path: Path = Path("/var/lib/neutron")


@dataclass(slots=True)
class Seen:
    """What there is. `hung`: binds that did not answer. `neighbour`: the MAC of the guest, if known."""

    place: Place
    findings: list[Finding] = field(default_factory=list)
    listening: list[Listening] = field(default_factory=list)
    hung: list[Bind] = field(default_factory=list)
    neighbour: str | None = None
    checked: list[str] = field(default_factory=list)

    def at(self, bind: Bind) -> list[Listening]:
        """Who takes the connections to an address."""
        return [one for one in self.listening if one.takes(bind.address, bind.port)]


def look(place: Place, context: Context) -> Seen:
    """At one namespace; raises OSError and `CommandError`."""
    seen = Seen(place)
    if not network_state.is_whole(place.namespace):
        seen.findings.append(
            _finding(place, context, "namespace-missing", "it is not there", "ip netns list")
        )
        return seen
    if place.wanted:
        seen.findings += _beside_plan(place, context)
    network_state.inside(place.namespace, lambda: _inside(seen, context))
    return seen


# --- the plan ---------------------------------------------------------------------------


def _beside_plan(place: Place, context: Context) -> Iterator[Finding]:
    """What `mdmw node plan` would do there, and why."""
    if not place.wanted:
        return
    found = difference(place.wanted, observe(place.wanted, context.places), context.places, time.time())
    how = f"mdmw node plan {context.source}"
    if found.problem:
        what = found.problem.removeprefix(f"{place.namespace}: ")
        gone = [wire.bridge for wire in place.wanted.wires if not network_state.read_device(wire.bridge)]
        bridges = tuple(f"ip link add {bridge} up type bridge" for bridge in dict.fromkeys(gone))
        mend = (*bridges, *_mend(place, context, "device-missing"))
        yield Finding("device-missing", place.namespace, what, how, mend, place.namespace)
    for action in found.actions:
        text = str(action).removeprefix(f"{place.namespace}: ")
        if kind := _MEANING.get(type(action)):
            yield _finding(place, context, kind, f"{_WORDS[kind]}; to do: {text}", how)
        elif isinstance(action, actions.RemoveAddress) and action.duplicate:
            yield _duplicate(place, action.device, action.address)


_WORDS = {
    "namespace-missing": "it is not there",
    "device-missing": "its device is not there",
    "device-down": "its device is down",
    "sysctl": "a setting is not as planned",
    "address-missing": "an address is not there",
    "route-missing": "its default route is not there",
    "rules-missing": "its rules are not there",
    "options-missing": "DHCP tells guests something else than the route to the metadata address",
    "dhcp-dead": "what tells guests their addresses does not run",
}


# --- inside -----------------------------------------------------------------------------


def _inside(seen: Seen, context: Context) -> None:
    place = seen.place
    devices = network_state.devices()
    seen.listening = listening()
    before = overflows()
    if not place.wanted:
        seen.findings += _as_neutron_makes_it(seen, devices, context)
    for device in devices.values():
        duplicates = [one.text for one in device.addresses if one.state == "duplicate"]
        seen.findings += [_duplicate(place, device.name, text) for text in duplicates]
    if context.guest:
        with contextlib.suppress(OSError):
            seen.neighbour = neighbour_mac(context.guest)
    there = {one.text.partition("/")[0] for device in devices.values() for one in device.addresses}
    seen.hung = [
        bind
        for bind in place.binds
        if (bind.address in there or bind.address not in (METADATA_ADDRESS, METADATA_ADDRESS_V6))
        and seen.at(bind)
        and not _answers(bind, context.mark)
    ]
    seen.findings += _refused(place, before, overflows())
    seen.findings += conntrack(place.namespace)


def _as_neutron_makes_it(seen: Seen, devices: Mapping[str, Device], context: Context) -> Iterator[Finding]:
    """Without a plan, what every namespace of Neutron's agents that serves metadata has."""
    place, name = seen.place, seen.place.namespace
    enter = f"ip netns exec {name}"
    prefixes = _GUEST_DEVICES.get(name.partition("-")[0] + "-", ())
    ports = [device for device in devices.values() if device.name.startswith(prefixes)] if prefixes else []
    if prefixes and not ports:
        what = f"there is no device {' or '.join(f'{prefix}*' for prefix in prefixes)}"
        yield _finding(place, context, "device-missing", what, f"{enter} ip link")
    for device in ports:
        if not device.up:
            mend = (f"{enter} ip link set {device.name} up",)
            what = f"{device.name} is down"
            yield Finding("device-down", name, what, f"{enter} ip link", mend, name)
    if place.is_router:
        yield from _redirect(seen, context)
        return
    there = {one.text.partition("/")[0] for device in devices.values() for one in device.addresses}
    for bind in place.binds:
        if bind.address in (METADATA_ADDRESS, METADATA_ADDRESS_V6) and bind.address not in there:
            length = 128 if ":" in bind.address else 32
            device_name = bind.device or next((device.name for device in ports), "DEVICE")
            mend = (f"{enter} ip address add {bind.address}/{length} dev {device_name}",)
            what = f"{bind.address} is not on {device_name}"
            yield Finding("address-missing", name, what, f"{enter} ip address", mend, name)
    yield from _neutrons_dhcp(place, context)


def _neutrons_dhcp(place: Place, context: Context) -> Iterator[Finding]:
    """4.5: the options file of Neutron's dnsmasq names the way, and the process is there."""
    directory = context.state_path / "dhcp" / place.namespace.partition("-")[2]
    if not directory.is_dir():
        return
    pid = process_id(directory / "pid")
    if pid is None or not any(f"{directory}/" in word for word in command_line(pid) or ()):
        how = f"{directory / 'pid'}: {'no such process' if pid else 'no pid'}"
        yield _finding(place, context, "dhcp-dead", "dnsmasq does not run", how)
    try:
        lines = (directory / "opts").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    if not any(METADATA_ADDRESS in line and line.split(",")[1] in _ROUTE_OPTIONS for line in lines):
        what = f"no subnet's DHCP options have a route to {METADATA_ADDRESS}/32 (option 121)"
        yield _finding(
            place, context, "options-missing", what, f"grep {METADATA_ADDRESS} {directory / 'opts'}"
        )


def _redirect(seen: Seen, context: Context) -> Iterator[Finding]:
    """P-7, and how many packets it has met; Neutron's rules are those of iptables."""
    place = seen.place
    command = ("iptables-save", "-c", "-t", "nat")
    how = f"ip netns exec {place.namespace} {shlex.join(command)}"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_WITHIN)  # noqa: S603 - no shell
    ports = {bind.port for bind in place.binds}
    rules = [found for found in map(_REDIRECT.match, done.stdout.splitlines()) if found]
    mine = [int(rule[1]) for rule in rules if int(rule[2]) in ports]
    if done.returncode:
        raise CommandError(f"{how}: {done.stderr.strip()}")
    if mine:
        seen.checked.append(f"{place.namespace}: {sum(mine)} connections redirected so far")
        return
    what = f"no rule redirects {METADATA_ADDRESS}:80 to port {', '.join(map(str, sorted(ports)))}"
    yield _finding(place, context, "rules-missing", what, how)


def _answers(bind: Bind, mark: int) -> bool:
    """Whether who listens there says anything at all to something that is not HTTP."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind.address, bind.address)  # noqa: S104 - a listener's
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.settimeout(ANSWER_WITHIN)
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)  # its own rules let nothing else in (P-7)
        scope = socket.if_nametoindex(bind.device) if bind.device else 0
        try:
            sock.connect((address, bind.port, 0, scope) if ":" in address else (address, bind.port))
            sock.sendall(_NONSENSE)
            sock.recv(1)
        except TimeoutError:
            return False
        except OSError:  # refused, reset: somebody is awake, or it is told of elsewhere
            return True
    return True


def _refused(place: Place, before: int, after: int) -> Iterator[Finding]:
    if after:
        what = f"{after} connections were refused because a backlog was full"
        more = ", some just now" if after > before else " since the namespace was made"
        how = f"ip netns exec {place.namespace} nstat -asz TcpExtListenOverflows"
        mend = (
            "# look why guests were not served in time: too few workers, a slow Nova",
            f"ip netns exec {place.namespace} ss -ltn",
        )
        yield Finding("backlog-overflow", place.namespace, what + more, how, mend, place.namespace)


def conntrack(namespace: str) -> Iterator[Finding]:
    """Whether the table of this thread's namespace is full, or nearly so; the host's has no name."""
    texts = [network_state.sysctl(f"netfilter/nf_conntrack_{name}") for name in ("count", "max")]
    count, most = (int(text or 0) for text in texts)
    if most and count >= _NEARLY_FULL * most:
        enter = f"ip netns exec {namespace} " if namespace else ""
        what = f"{count} of {most} connections are tracked: new ones are dropped"
        how = f"{enter}sysctl net.netfilter.nf_conntrack_count"
        mend = (f"sysctl -w net.netfilter.nf_conntrack_max={2 * most}",)
        yield Finding("conntrack-full", namespace or "this host", what, how, mend, namespace)


def _duplicate(place: Place, device: str, address: str) -> Finding:
    what = f"{address} is on another host of this network too; this one gave it up"
    how = f"ip netns exec {place.namespace} ip address show dev {device} dadfailed"
    mend = ("# IPv6 metadata is served by the other one; IPv4 goes on. To have it here, stop it there.",)
    return Finding("address-duplicate", place.namespace, what, how, mend, place.namespace)


def _finding(place: Place, context: Context, kind: str, what: str, how: str) -> Finding:
    return Finding(kind, place.namespace, what, how, _mend(place, context, kind), place.namespace)


def _mend(place: Place, context: Context, kind: str) -> tuple[str, ...]:
    """What Neutron's agents make they make again."""
    if place.wanted and (place.wanted.wires or kind not in _NEUTRONS):
        return (f"mdmw node apply --once {context.source}",)
    return (f"systemctl restart neutron-{'l3' if place.is_router else 'dhcp'}-agent",)


_RESTART = ("systemctl restart mdmw-agent  # or mdmw-metadata-agent", "journalctl -u 'mdmw-*agent' -n 20")


def check(path: Path, users: Mapping[str, tuple[int, frozenset[int]]]) -> Iterator[Finding]:
    """`users` are the proxies: name for people -> user, and groups."""
    where = str(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield Finding(
            "socket-missing", where, f"there is no agent: {error.strerror}", f"ls -l {path}", _RESTART
        )
        return
    if not stat.S_ISSOCK(mode):
        mend = (f"rm {path}", *_RESTART)
        yield Finding("socket-missing", where, "it is not a socket", f"ls -l {path}", mend)
        return
    yield from _forbidden(path, users)
    yield from _silent(path)


def _forbidden(path: Path, users: Mapping[str, tuple[int, frozenset[int]]]) -> Iterator[Finding]:
    for name, (uid, groups) in users.items():
        with contextlib.suppress(OSError):  # it went away meanwhile
            if why := obstacle(path, uid, groups):
                what = f"{name}, user {uid}, may not connect: {why}"
                mend = (
                    "# metadata_proxy_user and metadata_proxy_group of the agent say whose the socket is",
                    f"chown {uid} {path}",
                    f"chmod u+rw {path}",
                )
                yield Finding("socket-forbidden", str(path), what, f"namei -l {path}", mend)


def _silent(path: Path) -> Iterator[Finding]:
    where, how = str(path), f"ss -xlp src {path}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except BlockingIOError:
            what = "nobody accepts connections, and the backlog is full"
            yield Finding("agent-full", where, what, how, _RESTART)
            return
        except OSError as error:
            what = f"nobody listens there: {error.strerror}"
            yield Finding("agent-down", where, what, how, _RESTART)
            return
        sock.settimeout(ANSWER_WITHIN)
        try:
            sock.sendall(_NONSENSE)
            sock.recv(1)
        except TimeoutError:
            who = peer(path)
            is_stopped = who is not None and who.state == "T"
            what = f"{who or 'the agent'} does not answer{', it is stopped' if is_stopped else ''}"
            mend = (f"kill -CONT {who.pid}",) if who and is_stopped else _RESTART
            yield Finding("agent-hung", where, what, f"nothing came within {ANSWER_WITHIN} s", mend)
        except OSError:  # it closed: somebody is awake
            return
