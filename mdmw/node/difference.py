"""The actions that lead from the observed state of a namespace to its desired state. Pure: changes nothing.

The order of the actions is such that a run may end anywhere and leave nothing that the next run does not
find: a thing is recorded before it is made, and the record is removed after the thing.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mdmw.node import actions
from mdmw.node.actions import Action, Marker
from mdmw.node.desired import FIREWALLS, DesiredState, Places, merged
from mdmw.node.inspect import ObservedState
from mdmw.node.network_state import NetworkDevice
from mdmw.node.plan import Wire
from mdmw.records import METADATA_ADDRESS_V6

#: Seconds after which a node tries again to have the IPv6 metadata address, when another node had it.
RETRY_IPV6 = 300.0

_V6 = f"{METADATA_ADDRESS_V6}/128"
_PROGRAMS = frozenset({"dnsmasq", "radvd"})
_RELOAD = "reload"  # recorded until the program has been told to read its files again


@dataclass(frozen=True, slots=True)
class Difference:
    """What must be done in one namespace.

    `problem` is one line: what a person, or Neutron's agent, must do first. `ipv6` is the state of the IPv6
    metadata address: "ready" (or not desired), "waiting" for duplicate address detection, or "lost" to
    another node (spec 4.8).
    """

    namespace: str
    actions: tuple[Action, ...] = ()
    problem: str = ""
    ipv6: str = "ready"


def difference(desired: DesiredState, observed: ObservedState, places: Places, now: float) -> Difference:
    """The actions for one namespace; `now` is in seconds since 1970."""
    if not desired.wires and "namespace" in observed.marker.things:
        desired = DesiredState(desired.namespace)  # mdmw removes its namespace before Neutron makes one
    if problem := _obstacle(desired, observed):
        return Difference(desired.namespace, problem=problem)
    desired, lost, ipv6 = _without_lost(desired, observed, now)
    made = _things(desired, observed, places)
    remade = {wire.device for wire in desired.wires if _is_broken(wire, observed)}
    found = [
        *_removals(desired, observed, places, made),
        *_wires(desired, observed, remade),
        *_inside(desired, observed, places, remade),
        *_program(desired, observed, remade=bool(remade)),
    ]
    reload = {_RELOAD} if any(isinstance(action, actions.ReloadProgram) for action in found) else set()
    before = Marker(observed.marker.things | made | reload, lost)
    after = Marker(made, lost)
    if before != observed.marker:
        found.insert(0, actions.WriteMarker(desired.namespace, before))
    if after != before:
        found.append(actions.WriteMarker(desired.namespace, after))
    return Difference(desired.namespace, tuple(found), ipv6=ipv6)


def _obstacle(desired: DesiredState, observed: ObservedState) -> str:
    """Why nothing can be done now, as one line; empty when something can be done."""
    name = desired.namespace
    if desired.wires:
        if observed.exists and "namespace" not in observed.marker.things:
            return f"{name}: another program made this namespace; remove the namespace, or that program"
        missing = [wire.bridge for wire in desired.wires if wire.bridge not in observed.host]
        return f"{name}: this host has no bridge {missing[0]}; make the bridge" if missing else ""
    if not (desired.addresses or desired.rules):
        return ""
    if not observed.exists:
        return f"{name}: the namespace does not exist yet; Neutron's agent makes it"
    gone = [device for device in desired.addresses if device not in observed.devices]
    return f"{name}: the device {gone[0]} does not exist yet; Neutron's agent makes it" if gone else ""


def _without_lost(
    desired: DesiredState, observed: ObservedState, now: float
) -> tuple[DesiredState, float | None, str]:
    """The desired state without the IPv6 metadata address while another node has it (spec 4.8).

    Also when the address was lost, and the value for `Difference.ipv6`.
    """
    homes = [device for device, addresses in desired.addresses.items() if _V6 in addresses]
    if not homes:
        return desired, None, "ready"
    states = {_states(observed.devices.get(device)).get(_V6, "tentative") for device in homes}
    lost = observed.marker.lost_ipv6
    if "duplicate" in states:
        lost = now
    elif states == {"ready"}:
        lost = None
    if lost is None or now - lost >= RETRY_IPV6:
        return desired, lost, "waiting" if states != {"ready"} else "ready"
    rest = {d: tuple(a for a in addresses if a != _V6) for d, addresses in desired.addresses.items()}
    return replace(desired, addresses=rest), lost, "lost"


def _things(desired: DesiredState, observed: ObservedState, places: Places) -> frozenset[str]:
    """What mdmw will have made. Things inside a namespace of mdmw are not listed, they go with it."""
    had = observed.marker.things
    things = {f"rules {places.firewall}"} if desired.rules else set()
    if desired.wires:
        things |= {"namespace", *(f"device {wire.outer}" for wire in desired.wires)}
        return frozenset(things | ({desired.program.name} if desired.program else set()))
    for device, addresses in desired.addresses.items():
        there = _states(observed.devices.get(device))
        for address in addresses:
            word = f"address {device} {address}"
            if word in had or address not in there:
                things.add(word)
    options = desired.neutron_options
    if options and options.lines and ("options" in had or _merged(desired, observed)):
        things.add("options")
    return frozenset(things)


def _removals(
    desired: DesiredState, observed: ObservedState, places: Places, made: frozenset[str]
) -> Iterator[Action]:
    """Remove what mdmw made and what is not desired any more."""
    name, gone = desired.namespace, sorted(observed.marker.things - made)
    if observed.exists and "namespace" not in gone:
        yield from (actions.RemoveRules(name, kind) for kind in FIREWALLS if f"rules {kind}" in gone)
        for device, address in (thing.split()[1:] for thing in gone if thing.startswith("address ")):
            if state := _states(observed.devices.get(device)).get(address):
                yield actions.RemoveAddress(name, device, address, duplicate=state == "duplicate")
    if not _PROGRAMS.isdisjoint(gone):
        directory = places.state / name
        if observed.program:
            yield actions.StopProgram(name, directory / "pid", observed.program)
        yield actions.RemoveFiles(name, directory)
    for thing in gone:
        if thing.startswith("device ") and thing.split()[1] in observed.host:
            yield actions.RemoveDevice(name, thing.split()[1])
    if "namespace" in gone and observed.exists:
        yield actions.RemoveNamespace(name)


def _is_broken(wire: Wire, observed: ObservedState) -> bool:
    """Whether a veth pair must be made again."""
    inner = observed.devices.get(wire.device)
    if inner is None or wire.outer not in observed.host:
        return True
    return inner.mac != wire.mac or (wire.mtu is not None and inner.mtu != wire.mtu)


def _wires(desired: DesiredState, observed: ObservedState, remade: set[str]) -> Iterator[Action]:
    name = desired.namespace
    if not desired.wires:
        return
    if not observed.exists:
        yield actions.MakeNamespace(name)
    elif not observed.devices["lo"].up:  # the run that made the namespace crashed
        yield actions.BringUp(name, "lo")
    for wire in desired.wires:
        outer = observed.host.get(wire.outer)
        if wire.device in remade:
            yield actions.MakeWire(name, wire)
        if wire.device in remade or outer is None or not outer.up or outer.bridge != wire.bridge:
            yield actions.Attach(name, wire.outer, wire.bridge)


def _inside(
    desired: DesiredState, observed: ObservedState, places: Places, remade: set[str]
) -> Iterator[Action]:
    name = desired.namespace
    devices = {device: one for device, one in observed.devices.items() if device not in remade}
    for sysctl, value in desired.sysctls.items():
        now = observed.sysctls.get(sysctl)
        comes = not observed.exists or any(f"/{device}/" in sysctl for device in remade)
        if now != value and (now is not None or comes):
            yield actions.SetSysctl(name, sysctl, value)
    for wire in desired.wires:
        device = devices.get(wire.device)
        if device is None or not device.up:
            yield actions.BringUp(name, wire.device)
    without_routes = set(remade)
    for device_name, addresses in desired.addresses.items():
        known = devices.get(device_name, NetworkDevice(device_name))
        changes = list(_addresses(name, known, addresses, alone=bool(desired.wires)))
        yield from changes
        if any(isinstance(change, actions.RemoveAddress) for change in changes):
            without_routes.add(device_name)  # a device that loses its last address loses its routes too
    yield from _routes(desired, observed, without_routes)
    if desired.rules and not observed.rules_set:
        yield actions.SetRules(name, places.firewall, desired.rules)


def _addresses(
    name: str, device: NetworkDevice, desired: tuple[str, ...], *, alone: bool
) -> Iterator[Action]:
    """Add and remove addresses of a device (P-2, P-5). `alone`: mdmw decides about all its addresses."""
    states = _states(device)
    for address, state in states.items():
        if alone and address not in desired and not _is_automatic(address):
            yield actions.RemoveAddress(name, device.name, address, duplicate=state == "duplicate")
    there = [address for address in states if address in desired]
    if alone:
        misplaced = list(_misplaced([a for a in there if ":" not in a], [a for a in desired if ":" not in a]))
        yield from (actions.RemoveAddress(name, device.name, address) for address in misplaced)
        there = [address for address in there if address not in misplaced]
    yield from (actions.AddAddress(name, device.name, address) for address in desired if address not in there)


def _misplaced(there: list[str], desired: list[str]) -> Iterable[str]:
    """The IPv4 addresses that must be added again, because an address before them is missing."""
    for index, address in enumerate(there):
        if address != desired[index]:
            return there[index:]
    return ()


def _is_automatic(address: str) -> bool:
    """Whether this is the link-local address that the kernel makes (P-5)."""
    ip = ipaddress.ip_interface(address).ip
    return ip.version == 6 and ip.is_link_local and str(ip) != METADATA_ADDRESS_V6


def _routes(desired: DesiredState, observed: ObservedState, without: set[str]) -> Iterator[Action]:
    """P-6. `without`: devices that have none now, whatever was observed."""
    made_here = {wire.device for wire in desired.wires} - without
    there = {route for route in observed.routes if route[0] in made_here}
    yield from (actions.RemoveRoute(desired.namespace, *route) for route in sorted(there - desired.gateways))
    yield from (actions.AddRoute(desired.namespace, *route) for route in sorted(desired.gateways - there))


def _program(desired: DesiredState, observed: ObservedState, *, remade: bool) -> Iterator[Action]:
    name, running = desired.namespace, observed.program
    must_reload = _RELOAD in observed.marker.things
    if desired.program:
        program = desired.program
        is_right = running == program.argv and not remade
        if running and not is_right:
            yield actions.StopProgram(name, program.pid_file, running)
        changed = [
            actions.WriteFile(name, path, text)
            for path, text in program.files
            if observed.files.get(path) != text
        ]
        yield from changed
        if not is_right:
            yield actions.StartProgram(name, program.argv)
        elif changed or must_reload:
            yield actions.ReloadProgram(name, program.pid_file, program.argv)
    elif desired.neutron_options:
        text = _merged(desired, observed)
        if text:
            yield actions.WriteFile(name, desired.neutron_options.path, text)
        if running and (text or must_reload):
            yield actions.ReloadProgram(name, desired.neutron_options.pid_file, running)


def _merged(desired: DesiredState, observed: ObservedState) -> str:
    """The new options file of Neutron's dnsmasq; empty when the file is right or does not exist."""
    options = desired.neutron_options
    current = observed.files.get(options.path) if options else None
    if options is None or current is None:
        return ""
    text = merged(current, options.lines, restore="options" in observed.marker.things)
    return "" if text == current else text


def _states(device: NetworkDevice | None) -> Mapping[str, str]:
    """Address with prefix length -> state, in the kernel's order."""
    return {address.text: address.state for address in device.addresses} if device else {}
