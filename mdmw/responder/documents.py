"""The JSON documents about one instance (spec 7.5), and the page that carries a body to a guest."""

import base64
import ipaddress
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mdmw.inventory.values import Device, Guest, HostRoute, InventoryPort, Network, Subnet
from mdmw.records import Environ

TEXT = "text/plain; charset=UTF-8"
BYTES = "text/plain"
JSON = "application/json"

Pages = dict[str, "Page"]


@dataclass(frozen=True, slots=True)
class Page:
    """A body and its content type, as a WSGI application.

    `complete` is called for each answer and adds what is different in each answer.
    """

    body: bytes
    content_type: str = TEXT
    complete: Callable[[bytes], bytes] | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        body = self.complete(self.body) if self.complete else self.body
        headers = [("Content-Type", self.content_type), ("Content-Length", str(len(body))), *self.headers]
        start_response("200 OK", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def text_lines(names: Iterable[str]) -> Page:
    """A page with one name in each line, without a final newline (E-2)."""
    return Page("\n".join(names).encode())


_SEED_BYTES = 512
_SEED_SINCE = "2013-04-04"
_PROJECT_SINCE = "2015-10-15"
_DEVICES_SINCE = "2016-06-30"
_VLAN_SINCE = "2017-02-22"
_VF_TRUSTED_SINCE = "2018-08-27"
_DEDICATED_CPUS_SINCE = "2020-10-14"
_SHARES_SINCE = "2025-04-04"

# The link types that Nova passes on; all others become `phy`.
_LINK_TYPES = frozenset({"bridge", "dvs", "hw_veb", "hyperv", "ovs", "tap", "vhostuser", "vif"})
_OTHER_LINK = "phy"

_Json = dict[str, Any]


# --- meta_data.json ---------------------------------------------------------------------


def meta_data_page(guest: Guest, version: str, hostname: str) -> Page:
    """meta_data.json. Each answer has another random seed, from version 2013-04-04 on."""
    body = json.dumps(_meta_data(guest, version, hostname)).encode()
    return Page(body, JSON, _with_random_seed if version >= _SEED_SINCE else None)


def contents(guest: Guest) -> dict[str, bytes]:
    """The bytes at each content path, by number. The network configuration has the first number."""
    config = [guest.network_config] if guest.network_config is not None else []
    return {f"{i:04}": content for i, content in enumerate([*config, *(f.content for f in guest.files)])}


def _meta_data(guest: Guest, version: str, hostname: str) -> _Json:
    numbers = iter(contents(guest))
    found: _Json = {"uuid": guest.id}
    if guest.meta:
        found["meta"] = dict(guest.meta)
    if guest.network_config is not None:
        found["network_config"] = {"name": "network_config", "content_path": _content_path(next(numbers))}
    if guest.files:
        found["files"] = [
            {"path": file.path, "content_path": _content_path(number)}
            for file, number in zip(guest.files, numbers, strict=True)
        ]
    if guest.admin_pass is not None:
        found["admin_pass"] = guest.admin_pass
    found.update(guest.extra_metadata)
    if guest.keys:
        found["public_keys"] = {key.name: key.data for key in guest.keys}
        found["keys"] = [{"name": key.name, "type": key.type, "data": key.data} for key in guest.keys]
    found["hostname"] = hostname
    found["name"] = guest.name
    found["launch_index"] = guest.launch_index
    found["availability_zone"] = guest.availability_zone or None
    if version >= _PROJECT_SINCE:
        found["project_id"] = guest.project_id
    if version >= _DEVICES_SINCE:
        found["devices"] = list(_devices(guest, version))
    if version >= _DEDICATED_CPUS_SINCE:
        found["dedicated_cpus"] = list(guest.dedicated_cpus)
    return found


def _with_random_seed(body: bytes) -> bytes:
    seed = base64.b64encode(os.urandom(_SEED_BYTES))
    return body[:-1] + b', "random_seed": "' + seed + b'"}'


def _content_path(number: str) -> str:
    return f"/content/{number}"


def _devices(guest: Guest, version: str) -> Iterator[_Json]:
    for device in guest.devices:
        if device.type != "share" or version >= _SHARES_SINCE:
            yield _device(device, version)


def _device(device: Device, version: str) -> _Json:
    found: _Json = {"type": device.type, "bus": device.bus, "address": device.address}
    for name in ("mac", "serial", "path", "share_id", "tag"):
        if (value := getattr(device, name)) is not None:
            found[name] = value
    if device.vlan is not None and version >= _VLAN_SINCE:
        found["vlan"] = device.vlan
    if device.type == "nic" and version >= _VF_TRUSTED_SINCE:
        found["vf_trusted"] = bool(device.vf_trusted)
    found["tags"] = list(device.tags)
    return found


# --- network_data.json ------------------------------------------------------------------


def network_data(guest: Guest, networks: Mapping[str, Network]) -> bytes:
    """network_data.json, made from ports and subnets. `{}` for an instance without ports."""
    if not guest.ports:
        return b"{}"
    links: list[_Json] = []
    nets: list[_Json] = []
    services: list[_Json] = []
    for port in guest.ports:
        network = networks[port.network_id]
        homes = _homes(port, network)
        if not homes:
            continue
        link_id = port.device_name or f"interface{len(links)}"
        links.append(_link(link_id, port, network, [subnet for _, subnet in homes]))
        for address, subnet in homes:
            nets.append(_network(f"network{len(nets)}", link_id, network.id, address, subnet))
            services += [service for service in _dns(subnet) if service not in services]
    return json.dumps({"links": links, "networks": nets, "services": services}).encode()


def _homes(port: InventoryPort, network: Network) -> list[tuple[str, Subnet]]:
    """The first IPv4 and the first IPv6 address of a port, each with its subnet; IPv4 comes first."""
    homes: dict[int, tuple[str, Subnet]] = {}
    for address in port.addresses:
        if subnet := network.subnet_of(address):
            homes.setdefault(subnet.cidr.version, (address, subnet))
    return [homes[version] for version in sorted(homes)]


def _link(link_id: str, port: InventoryPort, network: Network, subnets: list[Subnet]) -> _Json:
    return {
        "id": link_id,
        "vif_id": port.id,
        "type": port.vif_type if port.vif_type in _LINK_TYPES else _OTHER_LINK,
        "mtu": None if any(subnet.enable_dhcp for subnet in subnets) else network.mtu,
        "ethernet_mac_address": port.mac,
    }


def _network(name: str, link_id: str, network_id: str, address: str, subnet: Subnet) -> _Json:
    kind = f"ipv{subnet.cidr.version}"
    found = {"id": name, "type": kind, "link": link_id, "network_id": network_id}
    if subnet.enable_dhcp and not subnet.ipv6_address_mode:
        return found | {"type": f"{kind}_dhcp"}
    if subnet.ipv6_address_mode:
        found["type"] = f"{kind}_{subnet.ipv6_address_mode}"
    return found | {
        "ip_address": address,
        "netmask": str(subnet.cidr.netmask),
        "routes": _routes(subnet),
        "services": _dns(subnet),
    }


def _routes(subnet: Subnet) -> list[_Json]:
    routes = list(subnet.host_routes)
    if subnet.gateway_ip:
        everywhere = ipaddress.ip_network("0.0.0.0/0" if subnet.cidr.version == 4 else "::/0")
        routes.insert(0, HostRoute(everywhere, subnet.gateway_ip))
    return [
        {
            "network": str(route.destination.network_address),
            "netmask": str(route.destination.netmask),
            "gateway": route.nexthop,
        }
        for route in routes
    ]


def _dns(subnet: Subnet) -> list[_Json]:
    return [{"type": "dns", "address": address} for address in subnet.dns_nameservers]
