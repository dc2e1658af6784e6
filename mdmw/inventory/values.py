"""The inventory: networks, routers and instances of a cloud that has no Neutron or Nova to ask.

Plain values. `mdmw.inventory.file` reads them from a file; the sample `etc/inventory.yaml`
explains what each is for.
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
    """A route that a guest gets beside the default one."""

    destination: IPNetwork
    nexthop: str


@dataclass(frozen=True, slots=True)
class Subnet:
    """Addresses of one version on a network, and how a guest gets to its own.

    `dhcp_address` is where `mdmw node` answers DHCP and metadata; the first free one if not given.
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
    """One layer-2 network; its addresses mean nothing on another.

    `bridge` is the bridge of this host that it is; only `mdmw node` needs to know.
    """

    id: str
    name: str = ""
    mtu: int | None = None
    subnets: tuple[Subnet, ...] = ()
    bridge: str | None = None

    def subnet_of(self, address: str) -> Subnet | None:
        """The subnet that holds a normalised address."""
        ip = ipaddress.ip_address(address)
        return next((subnet for subnet in self.subnets if ip in subnet.cidr), None)


@dataclass(frozen=True, slots=True)
class Interface:
    """A router's foot in a subnet, at the subnet's gateway unless it has another address."""

    subnet_id: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """A router and the subnets behind it."""

    id: str
    interfaces: tuple[Interface, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """A guest's network card; `project_id` is the guest's unless another project owns the port."""

    id: str
    network_id: str
    mac: str
    addresses: tuple[str, ...] = ()
    project_id: str | None = None
    vif_type: str | None = None
    device_name: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A public key by which somebody may log in."""

    name: str
    data: str
    type: str = "ssh"


@dataclass(frozen=True, slots=True)
class File:
    """A file that the guest shall write."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Device:
    """A device with a tag or another property that a guest cannot find out by itself."""

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
    """Everything that is known of one instance; the EC2 ids are made from its UUID unless given."""

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
    ports: tuple[Port, ...] = ()

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
    """The content of one file."""

    networks: tuple[Network, ...] = ()
    routers: tuple[Router, ...] = ()
    instances: tuple[Guest, ...] = ()


def _hostname_from(name: str) -> str:
    """The host name that Nova makes of a display name."""
    return re.sub(r"[^a-z0-9-]", "", re.sub(r"[ _.]", "-", name.lower())).strip("-")[:_HOSTNAME_LENGTH]
