"""What has to be done, from what must be there and what is there: pure.

The order is such that a run that ends anywhere leaves nothing behind that the next one would not
find: what will be made is remembered first, what is taken away is forgotten last.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mdmw.node.actions import (
    FIREWALLS,
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
from mdmw.node.inspect import Observed
from mdmw.node.network_state import Device
from mdmw.node.plan import Wire
from mdmw.node.programs import Places, Wanted, merged
from mdmw.records import METADATA_ADDRESS_V6

#: Seconds after which the IPv6 metadata address is tried again that another node had.
RETRY_IPV6 = 300.0

_V6 = f"{METADATA_ADDRESS_V6}/128"
_PROGRAMS = frozenset({"dnsmasq", "radvd"})
_RELOAD = "reload"  # remembered until the program has been told


@dataclass(frozen=True, slots=True)
class Difference:
    """For one namespace. `problem` is what a person, or Neutron's agent, must do first: one line.

    `ipv6` tells how far the IPv6 metadata address is: "ready" (or not wanted), "waiting" for
    duplicate address detection, or "lost" to another node (spec 4.8).
    """

    namespace: str
    actions: tuple[Action, ...] = ()
    problem: str = ""
    ipv6: str = "ready"


def difference(wanted: Wanted, observed: Observed, places: Places, now: float) -> Difference:
    """`now` is in seconds since 1970."""
    if not wanted.wires and "namespace" in observed.ours.things:
        wanted = Wanted(wanted.namespace)  # ours goes before Neutron makes its own
    if problem := _obstacle(wanted, observed):
        return Difference(wanted.namespace, problem=problem)
    wanted, lost, ipv6 = _without_lost(wanted, observed, now)
    made = _things(wanted, observed, places)
    remade = {wire.device for wire in wanted.wires if _is_broken(wire, observed)}
    actions = [
        *_removals(wanted, observed, places, made),
        *_wires(wanted, observed, remade),
        *_inside(wanted, observed, places, remade),
        *_program(wanted, observed, remade=bool(remade)),
    ]
    reload = {_RELOAD} if any(isinstance(action, ReloadProgram) for action in actions) else set()
    before = Ours(observed.ours.things | made | reload, lost)
    after = Ours(made, lost)
    if before != observed.ours:
        actions.insert(0, Remember(wanted.namespace, before))
    if after != before:
        actions.append(Remember(wanted.namespace, after))
    return Difference(wanted.namespace, tuple(actions), ipv6=ipv6)


def _obstacle(wanted: Wanted, observed: Observed) -> str:
    """Why nothing can be done now."""
    name = wanted.namespace
    if wanted.wires:
        if observed.exists and "namespace" not in observed.ours.things:
            return f"{name}: the namespace is there, but was not made by mdmw; remove it or what made it"
        missing = [wire.bridge for wire in wanted.wires if wire.bridge not in observed.host]
        return f"{name}: there is no bridge {missing[0]} on this host; make it" if missing else ""
    if not (wanted.addresses or wanted.rules):
        return ""
    if not observed.exists:
        return f"{name}: the namespace is not there yet; Neutron's agent makes it"
    gone = [device for device in wanted.addresses if device not in observed.devices]
    return f"{name}: there is no device {gone[0]} yet; Neutron's agent makes it" if gone else ""


def _without_lost(wanted: Wanted, observed: Observed, now: float) -> tuple[Wanted, float | None, str]:
    """4.8: who loses duplicate address detection gives up IPv6, and only that, for a while."""
    homes = [device for device, addresses in wanted.addresses.items() if _V6 in addresses]
    if not homes:
        return wanted, None, "ready"
    states = {_states(observed.devices.get(device)).get(_V6, "tentative") for device in homes}
    lost = observed.ours.lost_ipv6
    if "duplicate" in states:
        lost = now
    elif states == {"ready"}:
        lost = None
    if lost is None or now - lost >= RETRY_IPV6:
        return wanted, lost, "waiting" if states != {"ready"} else "ready"
    rest = {d: tuple(a for a in addresses if a != _V6) for d, addresses in wanted.addresses.items()}
    return replace(wanted, addresses=rest), lost, "lost"


def _things(wanted: Wanted, observed: Observed, places: Places) -> frozenset[str]:
    """What is ours once all is done. What is in a namespace of ours goes with it."""
    had = observed.ours.things
    things = {f"rules {places.firewall}"} if wanted.rules else set()
    if wanted.wires:
        things |= {"namespace", *(f"device {wire.outer}" for wire in wanted.wires)}
        return frozenset(things | ({wanted.program.name} if wanted.program else set()))
    for device, addresses in wanted.addresses.items():
        there = _states(observed.devices.get(device))
        for address in addresses:
            word = f"address {device} {address}"
            if word in had or address not in there:
                things.add(word)
    options = wanted.neutron_options
    if options and options.lines and ("options" in had or _merged(wanted, observed)):
        things.add("options")
    return frozenset(things)


def _removals(wanted: Wanted, observed: Observed, places: Places, made: frozenset[str]) -> Iterator[Action]:
    """What is ours and not wanted any more."""
    name, gone = wanted.namespace, sorted(observed.ours.things - made)
    if observed.exists and "namespace" not in gone:
        yield from (RemoveRules(name, kind) for kind in FIREWALLS if f"rules {kind}" in gone)
        for device, address in (thing.split()[1:] for thing in gone if thing.startswith("address ")):
            if state := _states(observed.devices.get(device)).get(address):
                yield RemoveAddress(name, device, address, duplicate=state == "duplicate")
    if not _PROGRAMS.isdisjoint(gone):
        directory = places.state / name
        if observed.program:
            yield StopProgram(name, directory / "pid", observed.program)
        yield RemoveFiles(name, directory)
    for thing in gone:
        if thing.startswith("device ") and thing.split()[1] in observed.host:
            yield RemoveDevice(name, thing.split()[1])
    if "namespace" in gone and observed.exists:
        yield RemoveNamespace(name)


def _is_broken(wire: Wire, observed: Observed) -> bool:
    """Whether a cable has to be made anew."""
    inner = observed.devices.get(wire.device)
    if inner is None or wire.outer not in observed.host:
        return True
    return inner.mac != wire.mac or (wire.mtu is not None and inner.mtu != wire.mtu)


def _wires(wanted: Wanted, observed: Observed, remade: set[str]) -> Iterator[Action]:
    name = wanted.namespace
    if not wanted.wires:
        return
    if not observed.exists:
        yield MakeNamespace(name)
    elif not observed.devices["lo"].up:  # a crash came between
        yield BringUp(name, "lo")
    for wire in wanted.wires:
        outer = observed.host.get(wire.outer)
        if wire.device in remade:
            yield MakeCable(name, wire)
        if wire.device in remade or outer is None or not outer.up or outer.bridge != wire.bridge:
            yield Attach(name, wire.outer, wire.bridge)


def _inside(wanted: Wanted, observed: Observed, places: Places, remade: set[str]) -> Iterator[Action]:
    name = wanted.namespace
    devices = {device: one for device, one in observed.devices.items() if device not in remade}
    for sysctl, value in wanted.sysctls.items():
        now = observed.sysctls.get(sysctl)
        comes = not observed.exists or any(f"/{device}/" in sysctl for device in remade)
        if now != value and (now is not None or comes):
            yield SetSysctl(name, sysctl, value)
    for wire in wanted.wires:
        device = devices.get(wire.device)
        if device is None or not device.up:
            yield BringUp(name, wire.device)
    without_routes = set(remade)
    for device_name, addresses in wanted.addresses.items():
        known = devices.get(device_name, Device(device_name))
        changes = list(_addresses(name, known, addresses, alone=bool(wanted.wires)))
        yield from changes
        if any(isinstance(change, RemoveAddress) for change in changes):
            without_routes.add(device_name)  # with its last address a device loses its routes
    yield from _routes(wanted, observed, without_routes)
    if wanted.rules and not observed.rules_set:
        yield SetRules(name, places.firewall, wanted.rules)


def _addresses(name: str, device: Device, wanted: tuple[str, ...], *, alone: bool) -> Iterator[Action]:
    """P-2, P-5. `alone`: every address of the device is ours to give and to take."""
    states = _states(device)
    for address, state in states.items():
        if alone and address not in wanted and not _is_automatic(address):
            yield RemoveAddress(name, device.name, address, duplicate=state == "duplicate")
    there = [address for address in states if address in wanted]
    if alone:
        misplaced = list(_misplaced([a for a in there if ":" not in a], [a for a in wanted if ":" not in a]))
        yield from (RemoveAddress(name, device.name, address) for address in misplaced)
        there = [address for address in there if address not in misplaced]
    yield from (AddAddress(name, device.name, address) for address in wanted if address not in there)


def _misplaced(there: list[str], wanted: list[str]) -> Iterable[str]:
    """IPv4 addresses that come too early, because others before them are missing."""
    for index, address in enumerate(there):
        if address != wanted[index]:
            return there[index:]
    return ()


def _is_automatic(address: str) -> bool:
    """The link-local address that the kernel makes (P-5)."""
    ip = ipaddress.ip_interface(address).ip
    return ip.version == 6 and ip.is_link_local and str(ip) != METADATA_ADDRESS_V6


def _routes(wanted: Wanted, observed: Observed, without: set[str]) -> Iterator[Action]:
    """P-6. `without`: devices that have none now, whatever was observed."""
    ours = {wire.device for wire in wanted.wires} - without
    there = {route for route in observed.routes if route[0] in ours}
    yield from (RemoveRoute(wanted.namespace, *route) for route in sorted(there - wanted.gateways))
    yield from (AddRoute(wanted.namespace, *route) for route in sorted(wanted.gateways - there))


def _program(wanted: Wanted, observed: Observed, *, remade: bool) -> Iterator[Action]:
    name, running = wanted.namespace, observed.program
    must_reload = _RELOAD in observed.ours.things
    if wanted.program:
        ours = wanted.program
        is_right = running == ours.argv and not remade
        if running and not is_right:
            yield StopProgram(name, ours.pid_file, running)
        changed = [
            WriteFile(name, path, text) for path, text in ours.files if observed.files.get(path) != text
        ]
        yield from changed
        if not is_right:
            yield StartProgram(name, ours.argv)
        elif changed or must_reload:
            yield ReloadProgram(name, ours.pid_file, ours.argv)
    elif wanted.neutron_options:
        text = _merged(wanted, observed)
        if text:
            yield WriteFile(name, wanted.neutron_options.path, text)
        if running and (text or must_reload):
            yield ReloadProgram(name, wanted.neutron_options.pid_file, running)


def _merged(wanted: Wanted, observed: Observed) -> str:
    """The new options file of Neutron's dnsmasq; empty when it is right, or not there."""
    options = wanted.neutron_options
    current = observed.files.get(options.path) if options else None
    if options is None or current is None:
        return ""
    text = merged(current, options.lines, restore="options" in observed.ours.things)
    return "" if text == current else text


def _states(device: Device | None) -> Mapping[str, str]:
    """Address with prefix length -> state, in the kernel's order."""
    return {address.text: address.state for address in device.addresses} if device else {}
