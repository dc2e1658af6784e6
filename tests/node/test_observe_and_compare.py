"""The difference between what is wanted and what is there, as values (4.4, 4.6, 4.8, P-5)."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import (
    DHCP,
    DHCP_SPACE,
    OUTER,
    ROUTER_SPACE,
    SUBNET,
    TAP,
    device,
    observed,
    view,
    wanted_in,
)

from mdmw.node.actions import (
    AddAddress,
    Attach,
    BringUp,
    MakeWire,
    Marker,
    ReloadProgram,
    RemoveAddress,
    RemoveDevice,
    RemoveNamespace,
    RemoveRules,
    SetRules,
    StartProgram,
    StopProgram,
    WriteFile,
    WriteMarker,
)
from mdmw.node.desired import DesiredState, Places, merged
from mdmw.node.difference import RETRY_IPV6, difference
from mdmw.node.inspect import ObservedState, observe, read_marker
from mdmw.node.network_state import DeviceAddress, NetworkDevice

NOW = 1_000_000.0
V4, V6 = "169.254.169.254/32", "fe80::a9fe:a9fe/128"
PLACES = Places(state=Path("/nowhere"))
BRIDGE = device("br-blue")


def actions(wanted, there, places=PLACES, now=NOW):
    """What is to be done, without what is only remembered."""
    found = difference(wanted, there, places, now)
    assert not found.problem
    return [action for action in found.actions if not isinstance(action, WriteMarker)]


def test_every_action_is_one_line_that_names_its_namespace():
    wanted = wanted_in(DHCP_SPACE, view(bridge="br-blue"))
    found = difference(wanted, ObservedState(host={"br-blue": BRIDGE}), PLACES, NOW)
    lines = [str(action) for action in found.actions]
    assert len(lines) > 10
    assert all(line.startswith(f"{DHCP_SPACE}: ") and "\n" not in line for line in lines)


def test_what_will_be_made_is_remembered_before_anything_else():
    wanted = wanted_in(DHCP_SPACE, view(bridge="br-blue"))
    first, *_ = difference(wanted, ObservedState(host={"br-blue": BRIDGE}), PLACES, NOW).actions
    assert first == WriteMarker(DHCP_SPACE, Marker(frozenset({"namespace", f"device {OUTER}", "dnsmasq"})))


# --- beside Neutron ---------------------------------------------------------------------


def test_p_2_beside_neutron_only_what_is_ours_to_add():
    """P-2: the metadata addresses; the port's own are Neutron's."""
    wanted = wanted_in(DHCP_SPACE, view(ipv6=True))
    there = observed(device(TAP), sysctls={"ipv4/ip_nonlocal_bind": "1"})
    assert actions(wanted, there) == [AddAddress(DHCP_SPACE, TAP, V4), AddAddress(DHCP_SPACE, TAP, V6)]


def test_p_5_an_address_that_is_ours_is_removed_and_no_other():
    """P-5: no longer wanted; what Neutron made stays, and so does the link-local address of the kernel."""
    wanted = wanted_in(DHCP_SPACE, view(), enable_isolated_metadata=False)
    tap = device(TAP, "172.17.17.1/24", V4, "fe80::1/64")
    assert actions(wanted, observed(tap)) == []
    ours = Marker(frozenset({f"address {TAP} {V4}"}))
    found = difference(wanted, observed(tap, marker=ours), PLACES, NOW).actions
    assert found == (RemoveAddress(DHCP_SPACE, TAP, V4), WriteMarker(DHCP_SPACE, Marker()))


def test_a_network_that_is_gone_leaves_nothing_of_ours():
    ours = Marker(frozenset({f"address {TAP} {V4}", "rules nftables"}))
    there = observed(device(TAP, "172.17.17.1/24", V4), marker=ours)
    assert actions(DesiredState(DHCP_SPACE), there) == [
        RemoveRules(DHCP_SPACE, "nftables"),
        RemoveAddress(DHCP_SPACE, TAP, V4),
    ]
    gone = difference(DesiredState(DHCP_SPACE), ObservedState(marker=ours), PLACES, NOW)
    assert gone.actions == (WriteMarker(DHCP_SPACE, Marker()),)


@pytest.mark.parametrize(
    ("there", "said"),
    [(ObservedState(), "the namespace does not exist yet"), (observed(), f"device {TAP} does not exist yet")],
)
def test_what_neutron_has_not_made_yet_is_waited_for(there, said):
    found = difference(wanted_in(DHCP_SPACE, view()), there, PLACES, NOW)
    assert said in found.problem
    assert found.actions == ()


def test_p_7_rules_of_a_router():
    """P-7: set if they are not exactly there; in place of those of the other firewall."""
    wanted = wanted_in(ROUTER_SPACE, view(router=True))
    rules = SetRules(ROUTER_SPACE, "nftables", wanted.rules)
    assert actions(wanted, observed(rules_set=False)) == [rules]
    assert actions(wanted, observed(rules_set=True)) == []
    before = observed(rules_set=False, marker=Marker(frozenset({"rules iptables"})))
    assert actions(wanted, before) == [RemoveRules(ROUTER_SPACE, "iptables"), rules]


def test_4_8_two_dhcp_ports_share_a_namespace():
    """Spec 4.8, LP#1989979: each device gets its own addresses."""
    there = view()
    second = dataclasses.replace(DHCP, id="e5da0000-0000-4000-8000-000000000000")
    both = frozenset({DHCP.id, second.id})
    there = dataclasses.replace(there, ports=(*there.ports, second), dhcp_ports=both)
    wanted = wanted_in(DHCP_SPACE, there)
    assert wanted.addresses == {TAP: (V4,), "tape5da0000-00": (V4,)}
    assert (
        "device tape5da0000-00 does not exist yet"
        in difference(wanted, observed(device(TAP)), PLACES, NOW).problem
    )


# --- 4.8 --------------------------------------------------------------------------------


def test_4_8_the_loser_of_duplicate_address_detection_gives_up_ipv6_only():
    """Spec 4.8, LP#1953165: deleted, said, IPv4 stays; tried again after a while."""
    wanted = wanted_in(DHCP_SPACE, view(ipv6=True))
    ours = Marker(frozenset({f"address {TAP} {V4}", f"address {TAP} {V6}"}))
    fine = {"sysctls": {"ipv4/ip_nonlocal_bind": "1"}}
    lost = NetworkDevice(TAP, addresses=(DeviceAddress(V4), DeviceAddress(V6, "duplicate")))
    found = difference(wanted, observed(lost, marker=ours, **fine), PLACES, NOW)
    removed = RemoveAddress(DHCP_SPACE, TAP, V6, duplicate=True)
    after = Marker(frozenset({f"address {TAP} {V4}"}), NOW)
    assert found.ipv6 == "lost"
    assert [a for a in found.actions if not isinstance(a, WriteMarker)] == [removed]
    assert found.actions[-1] == WriteMarker(DHCP_SPACE, after)
    assert "another node" in str(removed)
    quiet = difference(wanted, observed(device(TAP, V4), marker=after, **fine), PLACES, NOW + 1)
    assert (quiet.actions, quiet.ipv6) == ((), "lost")
    again = difference(wanted, observed(device(TAP, V4), marker=after, **fine), PLACES, NOW + RETRY_IPV6)
    assert AddAddress(DHCP_SPACE, TAP, V6) in again.actions
    won = observed(device(TAP, V4, V6), marker=dataclasses.replace(ours, lost_ipv6=NOW), **fine)
    assert difference(wanted, won, PLACES, NOW + RETRY_IPV6).actions == (WriteMarker(DHCP_SPACE, ours),)


def test_4_8_waiting_for_the_outcome():
    """Spec 4.8: neither ready nor lost."""
    wanted = wanted_in(DHCP_SPACE, view(ipv6=True))
    tap = NetworkDevice(TAP, addresses=(DeviceAddress(V4), DeviceAddress(V6, "tentative")))
    found = difference(wanted, observed(tap, sysctls={"ipv4/ip_nonlocal_bind": "1"}), PLACES, NOW)
    assert (found.ipv6, found.actions) == ("waiting", ())


# --- without Neutron --------------------------------------------------------------------


def settled(wanted, *addresses, **fields):
    """A namespace of ours as it is once all is done."""
    wire = wanted.wires[0]
    things = {"namespace", f"device {wire.outer}", "dnsmasq"}
    tap = device(wire.device, *(addresses or wanted.addresses[wire.device]), mac=wire.mac)
    outer = device(wire.outer, bridge=wire.bridge)
    values = {
        "marker": Marker(frozenset(things)),
        "host": {wire.bridge: BRIDGE, wire.outer: outer},
        "sysctls": wanted.sysctls,
        "routes": wanted.gateways,
        "files": dict(wanted.program.files),
        "program": wanted.program.argv,
    }
    return observed(tap, **values | fields)


WIRED = wanted_in(DHCP_SPACE, view(bridge="br-blue"), PLACES)


def test_nothing_to_do():
    assert difference(WIRED, settled(WIRED), PLACES, NOW).actions == ()


def test_p_5_other_addresses_go():
    """P-5: in a namespace of ours; not the kernel's link-local one."""
    own = ("172.17.17.1/24", "10.9.9.9/32", V4, "fe80::f816:3eff:fe00:1/64")
    assert actions(WIRED, settled(WIRED, *own)) == [RemoveAddress(DHCP_SPACE, TAP, "10.9.9.9/32")]


def test_4_4_order_of_addresses():
    """Spec 4.4: the port's own first, even if it was lost and comes back."""
    assert actions(WIRED, settled(WIRED, V4)) == [
        RemoveAddress(DHCP_SPACE, TAP, V4),
        AddAddress(DHCP_SPACE, TAP, "172.17.17.1/24"),
        AddAddress(DHCP_SPACE, TAP, V4),
    ]


def test_a_namespace_that_somebody_else_made_is_not_touched():
    found = difference(WIRED, settled(WIRED, marker=Marker()), PLACES, NOW)
    assert (found.actions, "another program made this namespace" in found.problem) == ((), True)


def test_a_missing_bridge_is_said():
    found = difference(WIRED, ObservedState(), PLACES, NOW)
    assert found.problem == f"{DHCP_SPACE}: this host has no bridge br-blue; make the bridge"


def test_a_renamed_device_is_made_anew():
    """The cable, its addresses, and dnsmasq, which knew the old one."""
    other = device("renamed", *WIRED.addresses[TAP], mac=WIRED.wires[0].mac)
    there = dataclasses.replace(settled(WIRED), devices={"lo": device("lo"), "renamed": other})
    kinds = [type(action) for action in actions(WIRED, there)]
    wanted = [MakeWire, Attach, BringUp, AddAddress, AddAddress, StopProgram, StartProgram]
    assert [kind for kind in kinds if kind.__name__ != "SetSysctl"] == wanted


def test_a_device_that_lost_its_bridge_is_attached_again():
    outer = device(OUTER, up=False)
    there = settled(WIRED, host={"br-blue": BRIDGE, OUTER: outer})
    assert actions(WIRED, there) == [Attach(DHCP_SPACE, OUTER, "br-blue")]


def test_dnsmasq_killed_is_started_again():
    assert actions(WIRED, settled(WIRED, program=None)) == [StartProgram(DHCP_SPACE, WIRED.program.argv)]


def test_dnsmasq_with_another_command_line_is_started_again():
    other = ("dnsmasq", "--of-yesterday")
    found = actions(WIRED, settled(WIRED, program=other))
    assert [type(action) for action in found] == [StopProgram, StartProgram]
    assert found[0].argv == other


def test_4_5_dnsmasq_is_told_only_when_a_file_changed():
    """Spec 4.5: SIGHUP after a change, also when a crash came between the two."""
    (hosts, text), (options, _) = WIRED.program.files
    there = settled(WIRED, files={hosts: text, options: "old\n"})
    write, reload = actions(WIRED, there)
    assert isinstance(write, WriteFile)
    assert write.path == options
    assert isinstance(reload, ReloadProgram)
    remembered = difference(WIRED, there, PLACES, NOW).actions[0].marker
    assert "reload" in remembered.things
    after_a_crash = difference(WIRED, settled(WIRED, marker=remembered), PLACES, NOW).actions
    assert [type(action) for action in after_a_crash] == [ReloadProgram, WriteMarker]
    assert after_a_crash[-1].marker == settled(WIRED).marker


def test_removing_all_of_it():
    """In an order that a crash does not break: what is remembered is forgotten last."""
    found = difference(DesiredState(DHCP_SPACE), settled(WIRED), PLACES, NOW).actions
    kinds = [type(action).__name__ for action in found]
    assert kinds == ["StopProgram", "RemoveFiles", "RemoveDevice", "RemoveNamespace", "WriteMarker"]
    assert found[2:4] == (RemoveDevice(DHCP_SPACE, OUTER), RemoveNamespace(DHCP_SPACE))


def test_from_a_file_to_neutron():
    """Marker goes first; Neutron's agent then makes its own."""
    beside = wanted_in(DHCP_SPACE, view())
    assert RemoveNamespace(DHCP_SPACE) in actions(beside, settled(WIRED))


# --- Neutron's options file -------------------------------------------------------------

TAG = f"tag:subnet-{SUBNET}"
ROUTE = f"{TAG},option:classless-static-route,169.254.169.254/32,172.17.17.1"
WINDOWS = f"{TAG},249,169.254.169.254/32,172.17.17.1"


def test_4_5_neutrons_options_get_our_routes():
    """Spec 4.5: options 121 and 249, in place; everything else is Neutron's."""
    theirs = f"{TAG},option:dns-server,8.8.8.8\n{TAG},option:classless-static-route,x\n{TAG},option:router\n"
    new = merged(theirs, (ROUTE, WINDOWS, f"{TAG},option:router,9.9.9.9"), restore=False)
    assert new.splitlines() == [f"{TAG},option:dns-server,8.8.8.8", ROUTE, f"{TAG},option:router", WINDOWS]
    assert merged(new, (ROUTE, WINDOWS), restore=False) == new
    assert merged(new, (), restore=False) == new
    assert merged(new, (), restore=True).splitlines() == [new.splitlines()[0], f"{TAG},option:router"]


def static(text):
    return f"{TAG},option:classless-static-route,{text}"


@pytest.mark.parametrize(
    ("there", "left"),
    [
        (static(f"{V4},10.0.0.2"), []),
        (static(f"{V4},10.0.0.2,0.0.0.0/0,10.0.0.1"), []),
        (
            static(f"10.7.0.0/16,10.0.0.7,{V4},10.0.0.2,0.0.0.0/0,10.0.0.1"),
            [static("10.7.0.0/16,10.0.0.7,0.0.0.0/0,10.0.0.1")],
        ),
        *(
            (line, [line])
            for line in (static(f"{V4},10.0.0.1,0.0.0.0/0,10.0.0.1"), static("x"), static("x,y"))
        ),
    ],
)
def test_4_5_neutrons_options_without_ours(there, left):
    """Spec 4.5: a route to the DHCP port goes, one to the gateway is as Neutron itself writes it."""
    assert merged(there, (), restore=True).splitlines() == left


LINES = st.lists(
    st.sampled_from([ROUTE, WINDOWS, f"{TAG},option:router", "option:domain-name,x", "garbage", ",,,", ""])
    | st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs", "Cc", "Zl", "Zp"))),
    max_size=6,
)


@given(LINES, st.sampled_from([(), (ROUTE,), (ROUTE, WINDOWS)]))
def test_4_5_merging_twice_is_merging_once(current, ours):
    """Spec 4.5: whatever is in the file, ours is in it once, and the rest stays."""
    once = merged("\n".join(current), ours, restore=False)
    assert merged(once, ours, restore=False) == once
    assert set(ours) <= set(once.splitlines())
    others = [line for line in current if line and "169.254.169.254" not in line]
    assert [line for line in once.splitlines() if "169.254.169.254" not in line] == others


def test_neutrons_options_are_written_and_told(tmp_path):
    places = Places(state=tmp_path, neutron_dhcp=tmp_path / "dhcp")
    wanted = wanted_in(DHCP_SPACE, view(), places)
    path = wanted.neutron_options.path
    fine = {"sysctls": {"ipv4/ip_nonlocal_bind": "1"}, "program": ("dnsmasq", "theirs")}
    there = observed(device(TAP, V4), files={path: f"{TAG},option:router\n"}, **fine)
    write, reload = actions(wanted, there, places)
    assert write.text.splitlines() == [f"{TAG},option:router", ROUTE, WINDOWS]
    assert reload == ReloadProgram(DHCP_SPACE, path.parent / "pid", ("dnsmasq", "theirs"))
    absent = observed(device(TAP, V4), files={path: None}, **fine)
    assert actions(wanted, absent, places) == []


# --- what is kept in a file -------------------------------------------------------------


def test_a_marker_that_is_broken_is_said(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(OSError, match="the file is damaged; remove the file"):
        read_marker(path)
    assert read_marker(tmp_path / "absent.json") == Marker()


def test_a_pid_file_that_names_another_process_is_nobody(tmp_path):
    """P-12: ids are used again."""
    wanted = wanted_in(DHCP_SPACE, view(bridge="br-blue"), Places(state=tmp_path))
    (tmp_path / DHCP_SPACE).mkdir()
    for text in ("1", "garbage", "", "99999999999999999999", "0"):
        wanted.program.pid_file.write_text(text)
        assert observe(wanted, Places(state=tmp_path)).program is None
