"""Throw-away network namespaces: the guests' one, that of their network, and the host's.

`node` is the namespace of the guests' network: it has 169.254.169.254, and listeners are there.
`host` is where a process lives that listens in other namespaces than its own.
"""

import contextlib
import ctypes
import ipaddress
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

METADATA_ADDRESS = "169.254.169.254"
#: Where the guests are.
SUBNET = ipaddress.ip_network("10.77.0.0/16")
_NODE_ADDRESS = SUBNET[-2]
_CLONE_NEWNET = 0x40000000
_SYSCTLS = {
    "net.core.somaxconn": "8192",
    "net.ipv4.tcp_max_syn_backlog": "8192",
    # A connection per request: without these, the figure would be of TIME_WAIT.
    "net.ipv4.ip_local_port_range": "2048 65535",
    "net.ipv4.tcp_max_tw_buckets": "1024",
    "net.ipv4.tcp_tw_reuse": "1",
}


@dataclass(frozen=True)
class Topology:
    """The names of the namespaces, and the addresses of the guests."""

    guest: str
    node: str
    host: str
    guest_addresses: tuple[str, ...]


@contextlib.contextmanager
def topology(guests: int, node: str | None = None) -> Iterator[Topology]:
    """The namespaces, with `guests` addresses in that of the guests; removed on leaving.

    `node` is a namespace that is there already, and stays; it is then the host's as well.
    """
    addresses = tuple(str(SUBNET[256 + number]) for number in range(guests))
    guest, own_node, host = (f"mdmw-bench-{name}-{os.getpid()}" for name in ("guest", "node", "host"))
    made = Topology(guest, node or own_node, node or host, addresses)
    own = [made.guest] if node else [made.guest, made.node, made.host]
    try:
        _build(made, own)
        yield made
    finally:
        for name in own:
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def within(namespace: str, command: Sequence[str]) -> list[str]:
    """`command` so that it runs in `namespace`; `ip` becomes the command, so the process id stays."""
    return ["ip", "netns", "exec", namespace, *command]


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in `namespace`; a socket stays in the one in which it was made."""
    with open("/proc/thread-self/ns/net", "rb") as outside, open(f"/run/netns/{namespace}", "rb") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(outside.fileno())


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _build(made: Topology, own: Sequence[str]) -> None:
    for name in own:
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
    for name in {made.guest, made.node, made.host}:
        for key, value in _SYSCTLS.items():
            with inside(name), open(f"/proc/sys/{key.replace('.', '/')}", "w", encoding="ascii") as setting:
                setting.write(value)
    _run("ip", "-n", made.node, "link", "add", "guests", "type", "veth", "peer", "eth0", "netns", made.guest)
    _run("ip", "-n", made.node, "address", "add", f"{METADATA_ADDRESS}/32", "dev", "guests")
    _run("ip", "-n", made.node, "address", "add", f"{_NODE_ADDRESS}/{SUBNET.prefixlen}", "dev", "guests")
    _run("ip", "-n", made.node, "link", "set", "guests", "up")
    lines = [f"address add {address}/{SUBNET.prefixlen} dev eth0" for address in made.guest_addresses]
    lines += ["link set eth0 up", f"route add {METADATA_ADDRESS} dev eth0 src {made.guest_addresses[0]}"]
    _run("ip", "-n", made.guest, "-batch", "-", text="\n".join(lines))


def _run(*command: str, text: str = "") -> None:
    subprocess.run(command, input=text, text=True, check=True)
