"""Spec 4.8: two nodes serve one network. The second has a host namespace and a /run/netns of its own."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kvm_host import CONVERGE, Host, ask, host_routes, inside, ip, made, without_clients

from mdmw.node.plan import Options, Plan, dumps, plan
from mdmw.node.view import Bridge

pytestmark = pytest.mark.skipif(bool(without_clients()), reason=f"needs root and: {without_clients()}")

NET, SUBNET = "3d1f7a52-8c4e-4b0a-9d27-60b1e5c8f493", "9e6b2c04-5a7d-4f18-8b3c-d2f0a1e47c65"
GUEST, MAC = "0c94e7b1-6f25-4d38-a1e9-57b8c3d2f064", "fa:16:3e:5b:50:05"
METADATA = "169.254.169.254"
INVENTORY = f"""
networks:
  - id: {NET}
    bridge: {{bridge}}
    subnets:
      - {{{{id: {SUBNET}, cidr: 10.0.0.0/24, dhcp_address: {{address}}}}}}
instances:
  - id: {GUEST}
    project_id: p
    name: g
    ports:
      - {{{{id: 5b0e8d17-2c94-4a63-b7f5-1e6d9c3a8042, network: {NET}, mac: '{MAC}', addresses: [10.0.0.9]}}}}
"""
OPTIONS = Options(enable_isolated_metadata=True)
_ELSEWHERE = 'mount -t tmpfs none /run/netns; exec "$@"'


def planned(host: Host, bridge: str, address: str) -> Plan:
    """As Neutron would have it: a DHCP port for each node, each with its own id, MAC and address."""
    text = INVENTORY.format(bridge=bridge, address=address)
    (host.directory / "inventory.yaml").write_text(text)
    view = host.view()
    number = address[-1]
    ports = tuple(
        dataclasses.replace(port, id=f"{number * 8}{port.id[8:]}", mac=f"fa:16:3e:5b:51:0{number}")
        if port.id in view.dhcp_ports
        else port
        for port in view.ports
    )
    dhcp_ports = frozenset(port.id for port in ports if port.device_owner == "network:dhcp")
    bridges = (Bridge(NET, bridge),)
    return plan(dataclasses.replace(view, ports=ports, dhcp_ports=dhcp_ports, bridges=bridges), OPTIONS)


def second_node(host: Host, bridge: str) -> str:
    """Its host namespace, with a bridge `br0` that has a cable to the first node's."""
    space = host.namespace(host.name("h"))
    ip(space, "link add br0 type bridge")
    host.cable(space, "uplink", bridge, "fa:16:3e:5b:52:01")
    for words in ("link set uplink master br0", "link set uplink up", "link set br0 up"):
        ip(space, words)
    return space


def converge_on(space: str, wanted: Plan, state: Path) -> None:
    words = [f"--net=/run/netns/{space}", "unshare", "--mount", "sh", "-c", _ELSEWHERE, "sh"]
    command = ["nsenter", *words, sys.executable, "-c", CONVERGE, str(state)]
    done = subprocess.run(command, input=dumps(wanted), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ready\n() "), done


def pid_in(state: Path) -> int:
    return int((state / f"qdhcp-{NET}" / "pid").read_text())


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_4_8_two_nodes_each_lead_to_themselves() -> None:
    """Spec 4.8: a lease names the node that gave it; when that one is gone, the next names the other."""
    with made() as host, contextlib.ExitStack() as stack:
        bridge = host.bridge()
        second = second_node(host, bridge)
        first_plan, second_plan = planned(host, bridge, "10.0.0.2"), planned(host, "br0", "10.0.0.3")
        host.converge(first_plan)
        converge_on(second, second_plan, host.directory / "second")
        dnsmasq = {"10.0.0.2": pid_in(host.places.state), "10.0.0.3": pid_in(host.directory / "second")}
        stack.callback(end, dnsmasq["10.0.0.3"])
        space = f"/proc/{dnsmasq['10.0.0.3']}/ns/net"  # it has no name on this side
        elsewhere = dataclasses.replace(second_plan.dhcp[0], namespace=space)
        stack.enter_context(host.serving(Plan((*first_plan.dhcp, elsewhere))))
        guest = host.guest(bridge, MAC)
        while dnsmasq:
            inside(guest, "ip", "addr", "flush", "dev", "eth0")
            host.lease(guest, "udhcpc")
            assert json.loads(ask(guest))["uuid"] == GUEST
            end(dnsmasq.pop(host_routes(guest)[METADATA]))
