"""The inventory: networks, routers and instances of a host or cloud without Neutron and Nova.

Plain values. `mdmw.inventory.file` reads them from a file, `mdmw.inventory.sqlite` from a database. The
sample `etc/inventory.yaml` explains each key.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_BLOCK_DEVICES = {"ami": "sda1", "ephemeral0": "sda2", "root": "/dev/sda1", "swap": "sda3"}
_HOSTNAME_LENGTH = 63


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route that guests of a subnet get, beside the default route."""

    destination: IPNetwork
    nexthop: str


@dataclass(frozen=True, slots=True)
class Subnet:
    """Addresses of one IP version on a network, and how a guest gets its address.

    `dhcp_address`: the address at which `mdmw-node` answers DHCP and metadata; by default the first free one.
    """

    id: str
    cidr: IPNetwork
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    ipv6_address_mode: str | None = None
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    dhcp_address: str | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """One layer-2 network. The same address on another network is another guest.

    `bridge`: the bridge of this host that carries the network; only `mdmw-node` uses it.
    """

    id: str
    name: str = ""
    mtu: int | None = None
    subnets: tuple[Subnet, ...] = ()
    bridge: str | None = None

    def subnet_of(self, address: str) -> Subnet | None:
        """The subnet that contains a normalised address, or None."""
        ip = ipaddress.ip_address(address)
        return next((subnet for subnet in self.subnets if ip in subnet.cidr), None)


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of a router on a subnet. Without `address` it has the gateway address of the subnet."""

    subnet_id: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """A router, with an interface on each subnet behind it."""

    id: str
    interfaces: tuple[Interface, ...] = ()


@dataclass(frozen=True, slots=True)
class InventoryPort:
    """A network interface of an instance. `project_id`: None when instance and port have the same project."""

    id: str
    network_id: str
    mac: str
    addresses: tuple[str, ...] = ()
    project_id: str | None = None
    vif_type: str | None = None
    device_name: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A public key for logging in."""

    name: str
    data: str
    type: str = "ssh"


@dataclass(frozen=True, slots=True)
class File:
    """A file that the guest writes at its first boot."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Device:
    """A device of an instance with a property that the guest cannot see, for example a tag."""

    type: str
    bus: str = "none"
    address: str = "none"
    tags: tuple[str, ...] = ()
    mac: str | None = None
    vlan: int | None = None
    vf_trusted: bool | None = None
    serial: str | None = None
    path: str | None = None
    share_id: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Guest:
    """One instance. Empty `hostname`, `ec2_id` and `reservation_id` are made from name and UUID."""

    id: str
    project_id: str
    name: str
    hostname: str = ""
    availability_zone: str = ""
    flavor: str = ""
    launch_index: int = 0
    keys: tuple[Key, ...] = ()
    user_data: bytes | None = None
    vendor_data: Mapping[str, Any] = field(default_factory=dict)
    vendor_data2: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    network_config: bytes | None = None
    password: bytes = b""
    admin_pass: str | None = None
    extra_metadata: Mapping[str, Any] = field(default_factory=dict)
    security_groups: tuple[str, ...] = ("default",)
    public_ipv4: str = ""
    block_device_mapping: Mapping[str, str] = field(default_factory=lambda: dict(_BLOCK_DEVICES))
    devices: tuple[Device, ...] = ()
    dedicated_cpus: tuple[int, ...] = ()
    ec2_id: str = ""
    ami_id: str = "ami-00000000"
    reservation_id: str = ""
    kernel_id: str = ""
    ramdisk_id: str = ""
    ports: tuple[InventoryPort, ...] = ()

    def __post_init__(self) -> None:
        digits = self.id.replace("-", "").lower()
        derived = {
            "hostname": _hostname_from(self.name) or f"server-{self.id}",
            "ec2_id": f"i-{digits[:8]}",
            "reservation_id": f"r-{digits[-8:]}",
        }
        for name, value in derived.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Inventory:
    """A whole inventory."""

    networks: tuple[Network, ...] = ()
    routers: tuple[Router, ...] = ()
    instances: tuple[Guest, ...] = ()


def _hostname_from(name: str) -> str:
    """The host name that Nova makes from a display name."""
    return re.sub(r"[^a-z0-9-]", "", re.sub(r"[ _.]", "-", name.lower())).strip("-")[:_HOSTNAME_LENGTH]
