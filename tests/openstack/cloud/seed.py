"""Users, networks, routers, ports and instances: what the cloud has when it is new.

net1 and net2 have the same subnets, and a router each. Instances a and b, of different projects, have
the same address on them. c has gzipped user data, d binary. e's address will become that of f.
"""

import base64
import gzip
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .api import NEUTRON_URL, Api
from .settings import REGION, Secrets

PROJECTS = {"net1": "tenant-1", "net2": "tenant-2"}
IPV4_CIDR, IPV6_CIDR = "10.0.0.0/24", "fd00:a::/64"
DHCP_ADDRESS, GATEWAY = "10.0.0.2", "10.0.0.1"
#: Name -> network and address; without address there is no port yet.
_INSTANCES = {
    "a": ("net1", "10.0.0.10"),
    "b": ("net2", "10.0.0.10"),
    "c": ("net1", "10.0.0.11"),
    "d": ("net1", "10.0.0.12"),
    "e": ("net1", "10.0.0.13"),
    "f": ("net1", None),
}


@dataclass(frozen=True)
class Port:
    """A port of Neutron."""

    id: str
    mac: str
    addresses: tuple[str, ...]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Port":
        """As Neutron describes it."""
        addresses = tuple(fixed["ip_address"] for fixed in answer["fixed_ips"])
        return cls(answer["id"], answer["mac_address"], addresses)


@dataclass(frozen=True)
class Network:
    """A network with its subnets, its DHCP port, its router and the router's interfaces."""

    id: str
    project_id: str
    ipv4_subnet_id: str
    router_id: str
    dhcp: Port
    interfaces: tuple[Port, ...]


@dataclass(frozen=True)
class Instance:
    """An instance of Nova; `port` is the one it had when the cloud was new."""

    id: str
    name: str
    project_id: str
    network: str
    port: Port | None

    @property
    def user_data(self) -> bytes:
        """c's is gzipped, d's no text at all."""
        text = f"#cloud-config\nhostname: instance-{self.name}\n".encode()
        if self.name == "c":
            return gzip.compress(text, mtime=0)  # as `--user-data FILE.gz`
        return bytes(range(256)) * 4 if self.name == "d" else text


@dataclass(frozen=True)
class Seed:
    """Everything, by name."""

    networks: dict[str, Network]
    instances: dict[str, Instance]

    @classmethod
    def read(cls, path: Path) -> "Seed":
        """As `write` left it."""
        document = json.loads(path.read_text())
        networks = {
            name: Network(**values | {
                "dhcp": _port(values["dhcp"]), "interfaces": tuple(map(_port, values["interfaces"]))
            })
            for name, values in document["networks"].items()
        }  # fmt: skip
        instances = {
            name: Instance(**values | {"port": values["port"] and _port(values["port"])})
            for name, values in document["instances"].items()
        }
        return cls(networks, instances)

    def write(self, path: Path) -> None:
        """To a JSON file."""
        path.write_text(json.dumps(asdict(self)))

    def for_nova(self) -> str:
        """What nova_seed.py reads."""
        return json.dumps(
            [
                {
                    "id": instance.id,
                    "name": instance.name,
                    "project_id": instance.project_id,
                    "user_data": base64.b64encode(instance.user_data).decode(),
                }
                for instance in self.instances.values()
            ]
        )


def users(api: Api, secret: Secrets) -> dict[str, str]:
    """The service users, their project, Neutron's place in the catalogue, and tenants; their ids by name."""
    roles = [api.keystone("GET", f"/roles?name={name}")["roles"][0]["id"] for name in ("admin", "service")]
    service = _project(api, "service")
    for name in ("neutron", "nova"):
        described = {"name": name, "domain_id": "default", "password": getattr(secret, name)}
        user = api.keystone("POST", "/users", user=described)["user"]["id"]
        for role in roles:
            api.keystone("PUT", f"/projects/{service}/users/{user}/roles/{role}")
    entry = api.keystone("POST", "/services", service={"name": "neutron", "type": "network"})["service"]
    for interface in ("public", "internal", "admin"):
        place = {"service_id": entry["id"], "interface": interface, "region_id": REGION}
        api.keystone("POST", "/endpoints", endpoint=place | {"url": NEUTRON_URL.removesuffix("/v2.0")})
    return {name: _project(api, name) for name in PROJECTS.values()}


def networks(api: Api, projects: Mapping[str, str]) -> Seed:
    """Neutron's part: networks, subnets, routers and ports, and the ids of their instances."""
    made = {name: _network(api, name, projects[tenant]) for name, tenant in PROJECTS.items()}
    return Seed(made, {name: _instance(api, made, name) for name in _INSTANCES})


def create_port(api: Api, network: Network, instance_id: str, address: str) -> Port:
    """A port of an instance at `address` of a network."""
    fixed = [{"subnet_id": network.ipv4_subnet_id, "ip_address": address}]
    return _create_port(api, network.id, network.project_id, instance_id, "compute:nova", fixed)


def _project(api: Api, name: str) -> str:
    return api.keystone("POST", "/projects", project={"name": name, "domain_id": "default"})["project"]["id"]


def _network(api: Api, name: str, project: str) -> Network:
    own = {"project_id": project}
    network = api.neutron("POST", "/networks", network=own | {"name": name})["network"]["id"]
    own["network_id"] = network
    ipv4 = _create(api, "subnet", own | {"ip_version": 4, "cidr": IPV4_CIDR, "gateway_ip": GATEWAY})
    ipv6_modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    gateway = {"gateway_ip": IPV6_CIDR.replace("/64", "1")}  # Neutron's own choice is the network's address
    ipv6 = _create(api, "subnet", own | {"ip_version": 6, "cidr": IPV6_CIDR} | gateway | ipv6_modes)
    dhcp_ips = [{"subnet_id": ipv4["id"], "ip_address": DHCP_ADDRESS}, {"subnet_id": ipv6["id"]}]
    dhcp = _create_port(api, network, project, f"dhcp-{network}", "network:dhcp", dhcp_ips)
    router = _create(api, "router", {"project_id": project, "name": name})["id"]
    for subnet in (ipv4, ipv6):
        api.neutron("PUT", f"/routers/{router}/add_router_interface", subnet_id=subnet["id"])
    interfaces = api.neutron("GET", f"/ports?device_id={router}")["ports"]
    return Network(network, project, ipv4["id"], router, dhcp, tuple(map(Port.of, interfaces)))


def _instance(api: Api, made: Mapping[str, Network], name: str) -> Instance:
    network_name, address = _INSTANCES[name]
    network = made[network_name]
    instance = str(uuid.uuid4())
    port = create_port(api, network, instance, address) if address else None
    return Instance(instance, name, network.project_id, network_name, port)


def _create(api: Api, kind: str, described: dict[str, Any]) -> Any:
    return api.neutron("POST", f"/{kind}s", **{kind: described})[kind]


def _create_port(
    api: Api, network: str, project: str, device: str, owner: str, fixed_ips: list[dict[str, str]]
) -> Port:
    described = {"network_id": network, "project_id": project, "device_id": device, "device_owner": owner}
    return Port.of(_create(api, "port", described | {"fixed_ips": fixed_ips}))


def _port(values: Mapping[str, Any]) -> Port:
    return Port(values["id"], values["mac"], tuple(values["addresses"]))
