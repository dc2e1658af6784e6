"""mdmw doctor: its first line names what was planted, whatever it was; on a healthy node it says so."""

import plants
import pytest
from node.kvm_host import obstacle
from site_of_doctor import SECRET, Node, doctor

from mdmw.doctor.findings import KINDS

pytestmark = pytest.mark.skipif(bool(obstacle("haproxy")), reason=f"needs root and: {obstacle('haproxy')}")

#: What is planted -> the kind that the first line must name, and a word of it.
_FAULTS = {
    "device deleted": (plants.device_deleted, "device-missing", "tap"),
    "device down": (plants.device_down, "device-down", "tap"),
    "address taken away": (plants.address_taken_away, "address-missing", "169.254.169.254"),
    "default route taken away": (plants.default_route_taken_away, "route-missing", "10.0.2.1"),
    "DHCP option taken away": (plants.option_taken_away, "options-missing", "opts"),
    "dnsmasq killed": (plants.dnsmasq_killed, "dhcp-dead", "dnsmasq"),
    "rules flushed": (plants.rules_flushed, "rules-missing", "qrouter-"),
    "sysctl changed": (plants.setting_changed, "sysctl", "nonlocal"),
    "mdmw-node ended": (plants.node_ended, "node-down", "mdmw-node"),
    "keeper stopped": (plants.keeper_stopped, "node-hung", "stopped"),
    "worker stopped": (plants.worker_stopped, "worker-stopped", "worker"),
    "listener closed": (plants.listener_closed, "listener-missing", "169.254.169.254:80"),
    "haproxy squats on the port": (plants.haproxy_squats, "listener-foreign", "haproxy"),
    "few files": (plants.few_files, "file-limit", "64"),
    "disk full": (plants.disk_full, "disk-full", "0 KiB"),
    "socket away": (plants.socket_away, "socket-missing", "agent"),
    "socket 0600 of another user": (plants.socket_of_another, "socket-forbidden", "0600"),
    "nobody at the socket": (plants.nobody_at_the_socket, "agent-down", "refused"),
    "backlog of the agent full": (plants.backlog_of_the_agent_full, "agent-full", "backlog"),
    "agent stopped": (plants.agent_stopped, "agent-hung", "stopped"),
    "password changed": (plants.password_changed, "keystone", "401"),
    "Keystone 500": (plants.keystone_says("500 Oh"), "keystone", "500"),
    "Keystone silent": (plants.keystone_silent, "keystone", "in time"),
    "Neutron 503": (plants.neutron_says("503 Oh"), "neutron", "503"),
    "Neutron 403": (plants.neutron_says("403 No"), "neutron", "may not list"),
    "port unknown": (plants.port_unknown, "unknown-address", "10.0.1.9"),
    "two ports with one address": (plants.two_ports, "duplicate-address", "several instances"),
    "another machine has the address": (plants.another_machine, "duplicate-address", "fa:16:3e:5b:66:66"),
    "other secret": (plants.other_secret, "wrong-secret", "403"),
    "Nova 500": (plants.nova_says("500 Oh"), "nova-error", "500"),
    "Nova 400": (plants.nova_says("400 Bad"), "nova-answer", "400"),
    "Nova slow": (plants.nova_silent, "nova-slow", "in time"),
    "Nova refuses connections": (plants.nova_refuses_connections, "nova-unreachable", "refused"),
    "other project": (plants.other_project, "answer", "404"),
    "clock ahead": (plants.clock_ahead, "clock", "s ahead of"),
    "certificate expired": (plants.certificate_expired, "certificate-expired", "https://127.0.0.1"),
    "certificate ends": (plants.certificate_ends, "certificate-ends", "ends on"),
    "client's certificate expired": (plants.client_certificate_expired, "certificate-expired", "agent"),
    "option misspelt": (plants.option_misspelt, "configuration", "eighty"),
    # The daemon takes a look of its own after these, so they are the last.
    "bridge deleted": (plants.bridge_deleted, "device-missing", "bridge"),
    "namespace deleted": (plants.namespace_deleted, "namespace-missing", "qdhcp-"),
}


def ask(node: Node, capsys, *words: object):
    return doctor(capsys, "--run-dir", node.place.directory, *words)


def about_the_guest(node: Node) -> list[str]:
    return ["--network", node.isolated, "--address", node.address]


@pytest.mark.parametrize("fault", _FAULTS)
def test_the_first_line_names_the_fault(node: Node, fault: str, capsys) -> None:
    """And when it is mended, nothing is wrong."""
    plant, kind, word = _FAULTS[fault]
    with plant(node):
        capsys.readouterr()
        found = ask(node, capsys, *(about_the_guest(node) if _is_about_a_guest(fault) else []))
    assert found.kind == kind, found
    assert word in " ".join(found.text.partition("known by")[0].split()), found
    assert found.status == {"fault": 2, "warning": 1}[KINDS[kind].severity]
    assert SECRET not in found.text


def _is_about_a_guest(fault: str) -> bool:
    return fault in ("port unknown", "another machine has the address")


def test_nothing_is_wrong(node: Node, capsys) -> None:
    for words in ([], about_the_guest(node), ["--address", node.address], ["--router", node.router]):
        found = ask(node, capsys, *words)
        assert (found.status, found.first) == (0, "Nothing is wrong."), found
        assert "left out" not in found.text
