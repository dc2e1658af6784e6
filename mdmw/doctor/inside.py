"""Check one guest namespace from inside: devices, addresses, DHCP, packet-filter rules, listeners.

A namespace with a plan is compared with the plan. A namespace without a plan is compared with what Neutron's
agents make.
"""

import contextlib
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mdmw.boundary.peer import neighbour_mac
from mdmw.doctor.findings import Finding
from mdmw.doctor.host import ANSWER_WITHIN, NOT_HTTP, check_conntrack
from mdmw.doctor.namespaces import GuestNamespace
from mdmw.doctor.processes import ListeningSocket, listening_sockets, refused_connections
from mdmw.node import actions, network_state
from mdmw.node.desired import Places
from mdmw.node.difference import difference
from mdmw.node.inspect import command_line, observe, process_id
from mdmw.node.namespaces import Bind, CommandError
from mdmw.node.network_state import NetworkDevice
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6

_SO_MARK = 36  # asm-generic/socket.h
_COMMAND_WITHIN = 1.0  # seconds
_REDIRECT = re.compile(r"\[([0-9]+):[0-9]+\] .* -d 169\.254\.169\.254/32 .*-j REDIRECT --to-ports ([0-9]+)")
_ROUTE_OPTIONS = frozenset({"option:classless-static-route", "121"})
_GUEST_DEVICES = {"qdhcp-": ("tap", "ns-"), "qrouter-": ("qr-",)}

#: Action of the plan -> kind of the finding. Other actions only clean up.
_KIND_OF_ACTION: dict[type[actions.Action], str] = {
    actions.MakeNamespace: "namespace-missing",
    actions.MakeWire: "device-missing",
    actions.Attach: "device-down",
    actions.BringUp: "device-down",
    actions.SetSysctl: "sysctl",
    actions.AddAddress: "address-missing",
    actions.AddRoute: "route-missing",
    actions.SetRules: "rules-missing",
    actions.WriteFile: "options-missing",
    actions.StartProgram: "dhcp-dead",
}
#: Kind of the finding -> what is wrong, without the name of the device or file.
_WRONG = {
    "namespace-missing": "the namespace does not exist",
    "device-missing": "the network device does not exist",
    "device-down": "the network device is down",
    "sysctl": "a kernel setting differs from the plan",
    "address-missing": "an address is missing",
    "route-missing": "the default route is missing",
    "rules-missing": "the packet-filter rules are missing",
    "options-missing": "the DHCP options have no route to the metadata address",
    "dhcp-dead": "the program that gives guests their addresses does not run",
}
#: Neutron's agents repair these in namespaces whose devices mdmw did not make.
_REPAIRED_BY_NEUTRON = ("namespace-missing", "device-missing", "dhcp-dead")


@dataclass(frozen=True, slots=True)
class Context:
    """The facts that are the same for all namespaces.

    `source` are the words that tell `mdmw node` from which files to plan. `mark` is the packet mark of a
    router's packets to the metadata address. `guest` is the address of the guest in question, or empty.
    """

    places: Places
    source: str = ""
    mark: int = 1
    guest: str = ""
    state_path: Path = Path("/var/lib/neutron")


@dataclass(slots=True)
class NamespaceCheck:
    """What was found in one namespace.

    `hung` has the binds at which a process listens and does not answer. `guest_mac` is the MAC from which the
    guest of the context sends, as far as the kernel knows it.
    """

    namespace: GuestNamespace
    findings: list[Finding] = field(default_factory=list)
    listening: list[ListeningSocket] = field(default_factory=list)
    hung: list[Bind] = field(default_factory=list)
    guest_mac: str | None = None
    checked: list[str] = field(default_factory=list)

    def listening_at(self, bind: Bind) -> list[ListeningSocket]:
        """The sockets at which connections to this address arrive."""
        return [one for one in self.listening if one.takes(bind.address, bind.port)]


def check_namespace(namespace: GuestNamespace, context: Context) -> NamespaceCheck:
    """Check one namespace; raises OSError and `CommandError`."""
    check = NamespaceCheck(namespace)
    if not network_state.is_namespace(namespace.name):
        what = _WRONG["namespace-missing"]
        check.findings.append(_finding(namespace, context, "namespace-missing", what, "ip netns list"))
        return check
    if namespace.desired:
        check.findings += _compared_with_plan(namespace, context)
    network_state.inside(namespace.name, lambda: _check_inside(check, context))
    return check


def _compared_with_plan(namespace: GuestNamespace, context: Context) -> Iterator[Finding]:
    """What `mdmw node plan` would change in the namespace."""
    desired, name = namespace.desired, namespace.name
    if not desired:
        return
    found = difference(desired, observe(desired, context.places), context.places, time.time())
    how = f"mdmw node plan {context.source}"
    if found.problem:
        what = found.problem.removeprefix(f"{name}: ")
        missing = [wire.bridge for wire in desired.wires if not network_state.read_device(wire.bridge)]
        bridges = tuple(f"ip link add {bridge} up type bridge" for bridge in dict.fromkeys(missing))
        mend = (*bridges, *_mend(namespace, context, "device-missing"))
        yield Finding("device-missing", name, what, how, mend, name)
    for action in found.actions:
        change = str(action).removeprefix(f"{name}: ")
        if kind := _KIND_OF_ACTION.get(type(action)):
            what = f"{_WRONG[kind]}; the plan would {change}"
            yield _finding(namespace, context, kind, what, how)
        elif isinstance(action, actions.RemoveAddress) and action.duplicate:
            yield _duplicate(namespace, action.device, action.address)


# --- inside the namespace ---------------------------------------------------------------


def _check_inside(check: NamespaceCheck, context: Context) -> None:
    namespace = check.namespace
    devices = network_state.devices()
    check.listening = listening_sockets()
    refused_before = refused_connections()
    if not namespace.desired:
        check.findings += _compared_with_neutron(check, devices, context)
    for device in devices.values():
        duplicates = [one.text for one in device.addresses if one.state == "duplicate"]
        check.findings += [_duplicate(namespace, device.name, text) for text in duplicates]
    if context.guest:
        with contextlib.suppress(OSError):
            check.guest_mac = neighbour_mac(context.guest)
    own = _addresses(devices)
    check.hung = [
        bind
        for bind in namespace.binds
        if (bind.address in own or bind.address not in (METADATA_ADDRESS, METADATA_ADDRESS_V6))
        and check.listening_at(bind)
        and not _answers(bind, context.mark)
    ]
    check.findings += _backlog(namespace, refused_before, refused_connections())
    check.findings += check_conntrack(namespace.name)


def _addresses(devices: Mapping[str, NetworkDevice]) -> set[str]:
    return {one.text.partition("/")[0] for device in devices.values() for one in device.addresses}


def _compared_with_neutron(
    check: NamespaceCheck, devices: Mapping[str, NetworkDevice], context: Context
) -> Iterator[Finding]:
    """Without a plan: devices, addresses, rules and DHCP as Neutron's agents make them."""
    namespace, name = check.namespace, check.namespace.name
    enter = f"ip netns exec {name}"
    prefixes = _GUEST_DEVICES.get(name.partition("-")[0] + "-", ())
    ports = [device for device in devices.values() if device.name.startswith(prefixes)] if prefixes else []
    if prefixes and not ports:
        what = f"the namespace has no network device {' or '.join(f'{prefix}*' for prefix in prefixes)}"
        yield _finding(namespace, context, "device-missing", what, f"{enter} ip link")
    for device in ports:
        if not device.up:
            mend = (f"{enter} ip link set {device.name} up",)
            what = f"the network device {device.name} is down"
            yield Finding("device-down", name, what, f"{enter} ip link", mend, name)
    if namespace.is_of_router:
        yield from _redirect(check, context)
        return
    own = _addresses(devices)
    for bind in namespace.binds:
        if bind.address in (METADATA_ADDRESS, METADATA_ADDRESS_V6) and bind.address not in own:
            length = 128 if ":" in bind.address else 32
            device_name = bind.device or next((device.name for device in ports), "DEVICE")
            mend = (f"{enter} ip address add {bind.address}/{length} dev {device_name}",)
            what = f"the address {bind.address} is missing on {device_name}"
            yield Finding("address-missing", name, what, f"{enter} ip address", mend, name)
    yield from _neutron_dhcp(namespace, context)


def _neutron_dhcp(namespace: GuestNamespace, context: Context) -> Iterator[Finding]:
    """Spec 4.5: Neutron's dnsmasq runs, and its options file has the route to the metadata address."""
    directory = context.state_path / "dhcp" / namespace.name.partition("-")[2]
    if not directory.is_dir():
        return
    pid = process_id(directory / "pid")
    if pid is None or not any(f"{directory}/" in word for word in command_line(pid) or ()):
        how = f"{directory / 'pid'}: {f'process {pid} is not this dnsmasq' if pid else 'no process id'}"
        yield _finding(namespace, context, "dhcp-dead", "dnsmasq does not run", how)
    try:
        lines = (directory / "opts").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    if not any(METADATA_ADDRESS in line and line.split(",")[1] in _ROUTE_OPTIONS for line in lines):
        what = f"the DHCP options of no subnet have a route to {METADATA_ADDRESS}/32 (option 121)"
        how = f"grep {METADATA_ADDRESS} {directory / 'opts'}"
        yield _finding(namespace, context, "options-missing", what, how)


def _redirect(check: NamespaceCheck, context: Context) -> Iterator[Finding]:
    """P-7: the rule that Neutron's agent makes with iptables, and the number of redirected connections."""
    namespace = check.namespace
    command = ("iptables-save", "-c", "-t", "nat")
    how = f"ip netns exec {namespace.name} {shlex.join(command)}"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_WITHIN)  # noqa: S603 - no shell
    if done.returncode:
        raise CommandError(f"{how}: {done.stderr.strip()}")
    ports = {bind.port for bind in namespace.binds}
    rules = [found for found in map(_REDIRECT.match, done.stdout.splitlines()) if found]
    redirected = [int(rule[1]) for rule in rules if int(rule[2]) in ports]
    if redirected:
        check.checked.append(f"{namespace.name}: {sum(redirected)} connections redirected so far")
        return
    port = ", ".join(map(str, sorted(ports)))
    what = f"no packet-filter rule redirects {METADATA_ADDRESS}:80 to port {port}"
    yield _finding(namespace, context, "rules-missing", what, how)


def _answers(bind: Bind, mark: int) -> bool:
    """Whether the process that listens at `bind` answers, or closes the connection, in time."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind.address, bind.address)  # noqa: S104 - a listener's
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.settimeout(ANSWER_WITHIN)
        sock.setsockopt(
            socket.SOL_SOCKET, _SO_MARK, mark
        )  # the rules let no packet in without the mark (P-7)
        scope = socket.if_nametoindex(bind.device) if bind.device else 0
        try:
            sock.connect((address, bind.port, 0, scope) if ":" in address else (address, bind.port))
            sock.sendall(NOT_HTTP)
            sock.recv(1)
        except TimeoutError:
            return False
        except OSError:  # a reset is an answer; a refused connection is another finding
            return True
    return True


# --- findings ---------------------------------------------------------------------------


def _backlog(namespace: GuestNamespace, before: int, after: int) -> Iterator[Finding]:
    name = namespace.name
    if after:
        since = ", some of them just now" if after > before else " since the namespace was made"
        what = f"the kernel refused {after} connections because a backlog was full{since}"
        how = f"ip netns exec {name} nstat -asz TcpExtListenOverflows"
        mend = (
            "# find out why connections were not accepted in time: too few workers, or a slow Nova",
            f"ip netns exec {name} ss -ltn",
        )
        yield Finding("backlog-overflow", name, what, how, mend, name)


def _duplicate(namespace: GuestNamespace, device: str, address: str) -> Finding:
    name = namespace.name
    what = f"{address} is also on another host of this network, so this host has given up the address"
    how = f"ip netns exec {name} ip address show dev {device} dadfailed"
    mend = (
        "# The other host serves IPv6 metadata, and this host still serves IPv4.",
        "# To serve IPv6 here, stop the metadata service of this network on the other host.",
    )
    return Finding("address-duplicate", name, what, how, mend, name)


def _finding(namespace: GuestNamespace, context: Context, kind: str, what: str, how: str) -> Finding:
    return Finding(kind, namespace.name, what, how, _mend(namespace, context, kind), namespace.name)


def _mend(namespace: GuestNamespace, context: Context, kind: str) -> tuple[str, ...]:
    """The plan repairs what mdmw made; Neutron's agents repair what they made."""
    desired = namespace.desired
    if desired and (desired.wires or kind not in _REPAIRED_BY_NEUTRON):
        return (f"mdmw node apply --once {context.source}",)
    return (restart_of_neutron_agent(namespace),)


def restart_of_neutron_agent(namespace: GuestNamespace) -> str:
    """The command that restarts the agent of Neutron that makes the namespace."""
    return f"systemctl restart neutron-{'l3' if namespace.is_of_router else 'dhcp'}-agent"
