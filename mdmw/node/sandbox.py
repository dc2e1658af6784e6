"""A temporary network node for `mdmw demo` and for tests, with the networks and guests of an inventory.

Each isolated network has a `dhcp` namespace with the metadata address on its bridge. Each router has a
namespace that redirects port 80 of the metadata address to port 9697 (spec 4.6). Each guest has a namespace
with its MAC, addresses and routes.
"""

import contextlib
import ipaddress
import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mdmw.inventory.values import Guest, Inventory, Network, Router, Subnet
from mdmw.node.namespaces import CommandError, run
from mdmw.records import METADATA_ADDRESS, Scope

METADATA_PORT = 80
_PROGRAMS = ("ip", "nft", "curl")
ROUTER_PORT = 9697
_REDIRECT = f"""
table ip mdmw {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        iifname "qr-*" ip daddr {METADATA_ADDRESS} tcp dport {METADATA_PORT} redirect to :{ROUTER_PORT}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class SandboxListener:
    """Where a proxy must listen. `scope` says whose guests arrive there."""

    namespace: str
    address: str
    port: int
    scope: Scope


@dataclass(frozen=True, slots=True)
class Site:
    """The temporary node: where to listen, and the namespace of each guest by instance id."""

    listeners: tuple[SandboxListener, ...]
    guests: dict[str, str]


def obstacle() -> str:
    """Why this host cannot have a sandbox, as one line; empty when it can."""
    if os.geteuid():
        return "not root"
    missing = [program for program in _PROGRAMS if not shutil.which(program)]
    if missing:
        return f"{', '.join(missing)} not found"
    trial = f"mdmw-{secrets.token_hex(3)}"
    try:
        run("ip", "netns", "add", trial)
        try:
            run("ip", "netns", "exec", trial, "true")
        finally:
            run("ip", "netns", "delete", trial)
    except CommandError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def build(inventory: Inventory) -> Iterator[Site]:
    """Make the namespaces, and remove them after the block. Needs root; raises `CommandError`."""
    prefix = f"mdmw-{secrets.token_hex(3)}"
    made: list[str] = []

    def namespace(name: str) -> str:
        full = f"{prefix}-{name}"
        run("ip", "netns", "add", full)
        made.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    try:
        yield _Builder(inventory, namespace).site()
    finally:
        for name in made:
            with contextlib.suppress(CommandError):
                run("ip", "netns", "delete", name)


class _Builder:
    def __init__(self, inventory: Inventory, namespace: Callable[[str], str]) -> None:
        self._inventory = inventory
        self._namespace = namespace
        self._router_numbers = itertools.count(1)
        self._dhcp_numbers = itertools.count(1)
        self._guest_numbers = itertools.count(1)
        self._port_numbers = itertools.count(1)
        self._bridges: dict[str, tuple[str, str]] = {}  # network id -> namespace and name of its bridge

    def site(self) -> Site:
        listeners = [self._router(router) for router in self._inventory.routers]
        isolated = [n for n in self._inventory.networks if n.id not in self._bridges]
        listeners += [self._isolated(network) for network in isolated]
        guests = {guest.id: self._guest(guest) for guest in self._inventory.instances}
        return Site(tuple(listeners), guests)

    def _router(self, router: Router) -> SandboxListener:
        space = self._namespace(f"router-{next(self._router_numbers)}")
        for interface in router.interfaces:
            network, subnet = self._subnet(interface.subnet_id)
            if network.id not in self._bridges:
                self._bridge(network, space, f"qr-{network.id[:8]}")
            address = interface.address or subnet.gateway_ip
            self._add_address(network, f"{address}/{subnet.cidr.prefixlen}")
        run("ip", "netns", "exec", space, "nft", "-f", "-", stdin=_REDIRECT)
        return SandboxListener(space, "::", ROUTER_PORT, Scope("router", router.id))

    def _isolated(self, network: Network) -> SandboxListener:
        space = self._namespace(f"dhcp-{next(self._dhcp_numbers)}")
        self._bridge(network, space, f"tap-{network.id[:8]}")
        for subnet in network.subnets:
            for route in subnet.host_routes:
                if str(route.destination.network_address) == METADATA_ADDRESS:
                    self._add_address(network, f"{route.nexthop}/{subnet.cidr.prefixlen}")
        self._add_address(network, f"{METADATA_ADDRESS}/32")
        return SandboxListener(space, METADATA_ADDRESS, METADATA_PORT, Scope("network", network.id))

    def _bridge(self, network: Network, space: str, name: str) -> None:
        run("ip", "-n", space, "link", "add", name, "type", "bridge")
        run("ip", "-n", space, "link", "set", name, "up")
        self._bridges[network.id] = (space, name)

    def _add_address(self, network: Network, address: str) -> None:
        space, bridge = self._bridges[network.id]
        run("ip", "-n", space, "address", "add", address, "dev", bridge, *_no_dad(address))

    def _guest(self, guest: Guest) -> str:
        own = self._namespace(f"guest-{next(self._guest_numbers)}")
        for index, port in enumerate(guest.ports):
            device = f"eth{index}"
            space, bridge = self._bridges[port.network_id]
            peer = f"vm{next(self._port_numbers)}"
            run("ip", "link", "add", device, "netns", own, "type", "veth", "peer", peer, "netns", space)
            run("ip", "-n", space, "link", "set", peer, "master", bridge, "up")
            run("ip", "-n", own, "link", "set", device, "address", port.mac, "up")
            for address in port.addresses:
                self._address_guest(own, device, port.network_id, address)
        return own

    def _address_guest(self, own: str, device: str, network_id: str, address: str) -> None:
        network = next(n for n in self._inventory.networks if n.id == network_id)
        subnet = next(s for s in network.subnets if ipaddress.ip_address(address) in s.cidr)
        with_prefix = f"{address}/{subnet.cidr.prefixlen}"
        run("ip", "-n", own, "address", "add", with_prefix, "dev", device, *_no_dad(address))
        if subnet.gateway_ip:
            run("ip", "-n", own, "route", "replace", "default", "via", subnet.gateway_ip, "dev", device)
        for route in subnet.host_routes:
            run("ip", "-n", own, "route", "add", str(route.destination), "via", route.nexthop)

    def _subnet(self, subnet_id: str) -> tuple[Network, Subnet]:
        return next(
            (network, subnet)
            for network in self._inventory.networks
            for subnet in network.subnets
            if subnet.id == subnet_id
        )


def _no_dad(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()
