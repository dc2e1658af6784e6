"""The namespaces that Nova and Neutron's agents would have made: guests, DHCP, routers, a switch."""

import contextlib
import ipaddress
import os
import signal
import subprocess
from collections.abc import Iterator

from bench.topology import inside

from .seed import DHCP_ADDRESS, GATEWAY, Network, Port, Seed

METADATA_V4, METADATA_V6 = "169.254.169.254", "fe80::a9fe:a9fe"
ROUTER_PORT = 9697
#: As Neutron has them before any device is there; without duplicate detection addresses are usable at once.
_SYSCTLS = {"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/default/accept_ra": "0"}
# arp_*: a router has two devices on one network, and that of IPv6 must not answer for the gateway of IPv4.
_ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/arp_ignore": "1",
    "net/ipv4/conf/all/arp_announce": "2",
}
# P-7, of the L3 agent, for one IP version.
_RULES = """
*mangle
-A PREROUTING -d {address} -i qr-+ -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffff
COMMIT
*nat
-A PREROUTING -d {address} -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports {port}
COMMIT
*filter
:scope - [0:0]
-A INPUT -m mark --mark 0x1/0xffff -j ACCEPT
-A INPUT -p tcp -m tcp --dport {port} -j DROP
-A FORWARD -j scope
-A scope -m mark --mark 0x1/0xffff -j DROP
COMMIT
"""


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """A new one, in place of what an earlier run may have left; it ends with all that runs in it."""
    _remove(name)
    _run("ip", "netns", "add", name)
    try:
        _set(name, _SYSCTLS)
        configure(name, "link set lo up")
        yield name
    finally:
        _remove(name)


def configure(name: str, *lines: str) -> None:
    """Commands of `ip`, in a namespace."""
    _run("ip", "-n", name, "-batch", "-", text="\n".join(lines))


def qdhcp(network: Network) -> str:
    """The namespace of a network, as Neutron names it."""
    return f"qdhcp-{network.id}"


def qrouter(network: Network) -> str:
    """The namespace of a network's router, as Neutron names it."""
    return f"qrouter-{network.router_id}"


def dhcp_device(network: Network) -> str:
    """The device of the DHCP port."""
    return f"tap{network.dhcp.id[:11]}"


def link_local(mac: str) -> str:
    """The address that a device gives itself (R-7, the other way round)."""
    first, *rest = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]))
    return str(ipaddress.IPv6Address(bytes.fromhex("fe80000000000000") + identifier))


class Topology:
    """All namespaces of one cloud, made on entering `made`."""

    def __init__(self, tag: str, seed: Seed) -> None:
        self._switch = f"{tag}-switch"
        self._tag = tag
        self._seed = seed

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Bridges, DHCP ports, routers and guests."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(namespace(self._switch))
            for name, network in self._seed.networks.items():
                configure(self._switch, f"link add {name} type bridge", f"link set {name} up")
                self._dhcp(stack.enter_context(namespace(qdhcp(network))), name, network)
                self._router(stack.enter_context(namespace(qrouter(network))), name, network)
            for instance in self._seed.instances.values():
                if instance.port:
                    own = stack.enter_context(namespace(self.guest(instance.name)))
                    self._plug(own, "eth0", instance.network, instance.port)
                    configure(own, f"route add default via {GATEWAY}")
            yield

    def guest(self, name: str) -> str:
        """The namespace of an instance."""
        return f"{self._tag}-{name}"

    def take_network_path(self, name: str) -> None:
        """As DHCP's option 121 tells a guest of an isolated network; over IPv6 the address is on its link."""
        configure(
            self.guest(name),
            f"route replace {METADATA_V4} via {DHCP_ADDRESS}",
            f"route replace {METADATA_V6} dev eth0",
        )

    def take_router_path(self, name: str) -> None:
        """By way of its gateway; over IPv6 as radvd announces it (P-8)."""
        network = self._seed.networks[self._seed.instances[name].network]
        gateway = next(port for port in network.interfaces if ":" in port.addresses[0])
        configure(
            self.guest(name),
            f"route replace {METADATA_V4} via {GATEWAY}",
            f"route replace {METADATA_V6} via {link_local(gateway.mac)} dev eth0",
        )

    def set_mac(self, name: str, mac: str) -> None:
        """The guest's device becomes that of another port."""
        configure(
            self.guest(name),
            "link set eth0 down",
            f"link set eth0 address {mac} up",
            f"route replace default via {GATEWAY}",
        )

    def _dhcp(self, own: str, bridge: str, network: Network) -> None:
        device = dhcp_device(network)
        self._plug(own, device, bridge, network.dhcp)
        configure(own, *(f"address add {address} dev {device}" for address in (METADATA_V4, METADATA_V6)))

    def _router(self, own: str, bridge: str, network: Network) -> None:
        _set(own, _ROUTER_SYSCTLS)
        for port in network.interfaces:
            self._plug(own, f"qr-{port.id[:11]}", bridge, port)
        for program, address in (("iptables", METADATA_V4), ("ip6tables", METADATA_V6)):
            rules = _RULES.format(address=address, port=ROUTER_PORT)
            _run("ip", "netns", "exec", own, f"{program}-restore", text=rules)

    def _plug(self, own: str, device: str, bridge: str, port: Port) -> None:
        end = f"p{port.mac.replace(':', '')}"
        link = f"link add {device} address {port.mac} type veth peer name {end} netns {self._switch}"
        addresses = [f"address add {_with_prefix(address)} dev {device}" for address in port.addresses]
        configure(own, link)
        configure(self._switch, f"link set {end} master {bridge} up")
        configure(own, f"link set {device} up", *addresses)


def _with_prefix(address: str) -> str:
    return f"{address}/64" if ":" in address else f"{address}/24"


def _set(name: str, values: dict[str, str]) -> None:
    for key, value in values.items():
        with inside(name), open(f"/proc/sys/{key}", "w", encoding="ascii") as setting:
            setting.write(value)


def _remove(name: str) -> None:
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def _run(*command: str, text: str = "") -> None:
    subprocess.run(command, input=text, text=True, check=True)
