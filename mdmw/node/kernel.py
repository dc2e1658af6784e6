"""Changes to namespaces, devices, addresses and routes, by pyroute2; nobody else imports it.

Everything raises OSError.
"""

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

from pyroute2 import netns
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from mdmw.node.namespaces import RUN_NETNS
from mdmw.node.network_state import SYSCTLS, inside, is_whole
from mdmw.node.plan import Wire

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ONLINK = 0x4  # linux/rtnetlink.h
_GONE = (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)

# --- namespaces -------------------------------------------------------------------------


def make_namespace(namespace: str) -> None:
    """With `lo` up; one that is there already stays."""
    if not is_whole(namespace):
        (RUN_NETNS / namespace).unlink(missing_ok=True)
        try:
            netns.create(namespace)
        except (RuntimeError, TypeError) as error:  # its child process did not come back
            raise OSError(f"the namespace cannot be made: {error}") from None
    inside(namespace, lambda: bring_up("lo"))


def remove_namespace(namespace: str) -> None:
    """It lives on, without a name, as long as a process or a socket is in it."""
    with contextlib.suppress(FileNotFoundError):
        netns.remove(namespace)


# --- changes ----------------------------------------------------------------------------


def make_cable(namespace: str, wire: Wire) -> None:
    """A veth pair from a namespace to the namespace of this thread."""
    peer: dict[str, Any] = {"ifname": wire.device, "net_ns_fd": namespace, "address": wire.mac}
    outer: dict[str, Any] = {"ifname": wire.outer, "kind": "veth"}
    if wire.mtu:
        peer["mtu"] = outer["mtu"] = wire.mtu
    with _netlink() as ip:
        ip.link("add", **outer, peer=peer)


def attach(device: str, bridge: str) -> None:
    """A device becomes a port of a bridge, and goes up."""
    with _netlink() as ip:
        ip.link("set", index=_index(ip, device), master=_index(ip, bridge), state="up")


def bring_up(device: str) -> None:
    """A device goes up."""
    with _netlink() as ip:
        ip.link("set", index=_index(ip, device), state="up")


def remove_device(device: str) -> None:
    """One that is not there is as good."""
    with _netlink() as ip, contextlib.suppress(FileNotFoundError):
        ip.link("delete", index=_index(ip, device))


def add_address(device: str, address: str) -> None:
    """One that is there already stays as it is."""
    text, _, length = address.partition("/")
    with contextlib.suppress(FileExistsError), _netlink() as ip:
        ip.addr("add", index=_index(ip, device), family=_family(text), address=text, prefixlen=int(length))


def remove_address(device: str, address: str) -> None:
    """One that is not there is as good."""
    text, _, length = address.partition("/")
    with _gone_is_good(), _netlink() as ip:
        ip.addr("delete", index=_index(ip, device), family=_family(text), address=text, prefixlen=int(length))


def set_default_route(device: str, gateway: str) -> None:
    """In place of another on the device; the gateway need not be in a subnet of it."""
    with _netlink() as ip:
        ip.route("replace", **_route(ip, device, gateway), flags=_ONLINK)


def remove_default_route(device: str, gateway: str) -> None:
    """One that is not there is as good."""
    with _gone_is_good(), _netlink() as ip:
        ip.route("delete", **_route(ip, device, gateway))


def set_sysctl(name: str, value: str) -> bool:
    """A value below /proc/sys/net, of this thread's namespace; False if there is no such thing."""
    try:
        with (SYSCTLS / name).open("r+") as file:  # "w" would make it
            file.write(value)
    except FileNotFoundError:
        return False
    return True


def _route(ip: Any, device: str, gateway: str) -> dict[str, Any]:
    family = _family(gateway)
    anywhere = "0.0.0.0/0" if family == socket.AF_INET else "::/0"
    return {"dst": anywhere, "gateway": gateway, "oif": _index(ip, device), "family": family}


def _family(address: str) -> int:
    return _FAMILIES[6 if ":" in address else 4]


def _index(ip: Any, device: str) -> int:
    found = ip.link_lookup(ifname=device)
    if not found:
        raise FileNotFoundError(2, "there is no such device", device)
    index: int = found[0]
    return index


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    """Netlink, in the namespace of this thread."""
    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise OSError(error.code, error.args[-1]) from None


@contextlib.contextmanager
def _gone_is_good() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise
