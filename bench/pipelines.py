"""The ini file and the inventory with which mdmw runs here."""

import uuid
from collections.abc import Sequence
from pathlib import Path

from bench.haproxies import NOVA_PORT
from bench.topology import SUBNET

NETWORK_ID = "0d3c4f1e-1d5e-4b43-9d2a-3b6a5c1f7e10"

_INI = """
[pipeline:proxy]
pipeline = identify-guest to-agent
[pipeline:agent]
pipeline = identify-relay resolve sign to-nova
[pipeline:combined]
pipeline = identify-guest resolve sign to-nova
[pipeline:observed]
pipeline = access-log metrics introspect identify-guest resolve sign to-nova

[filter:access-log]
use = egg:mdmw#access-log
destination = {directory}/access.log
[filter:metrics]
use = egg:mdmw#metrics
metrics_dir = {directory}/metrics
[filter:introspect]
use = egg:mdmw#introspect
introspect_dir = {directory}/processes

[filter:identify-guest]
use = egg:mdmw#source-identify
{identify}
[filter:identify-relay]
use = egg:mdmw#source-identify
mode = relay
relay_shared_secret_file = {directory}/secret
[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = inventory
inventory_file = {directory}/inventory.yaml
[filter:sign]
use = egg:mdmw#hmac-sign
metadata_proxy_shared_secret_file = {directory}/secret
[app:to-agent]
use = egg:mdmw#agent-forward
relay_shared_secret_file = {directory}/secret
metadata_proxy_socket = {socket}
[app:to-nova]
use = egg:mdmw#nova-forward
nova_metadata_host = 127.0.0.1
nova_metadata_port = {nova_port}
"""
_FIXED = f"mode = fixed\nnetwork_id = {NETWORK_ID}"
_LISTENER = "mode = listener"
_NETWORK = """
networks:
  - id: {network_id}
    subnets: [{{id: {subnet_id}, cidr: {cidr}}}]
instances:
"""
_INSTANCE = """
  - id: {instance_id}
    project_id: 4a1d0c7be6f94b5d9a3e8f2071c6d5b4
    name: guest-{number}
    ports: [{{id: {port_id}, network: {network_id}, mac: "{mac}", addresses: [{address}]}}]
"""


def write(directory: Path, socket: Path, addresses: Sequence[str], *, on_node: bool = False) -> Path:
    """Everything that mdmw reads, for one instance on each of `addresses`; the ini file's path.

    `on_node`: for mdmw-node, which knows the network of each listener.
    """
    (directory / "secret").write_text("a secret of the bench\n")
    (directory / "inventory.yaml").write_text(_inventory(addresses))
    ini = directory / "bench.ini"
    ini.write_text(
        _INI.format(
            identify=_LISTENER if on_node else _FIXED,
            directory=directory,
            socket=socket,
            nova_port=NOVA_PORT,
        )
    )
    return ini


def _inventory(addresses: Sequence[str]) -> str:
    text = _NETWORK.format(network_id=NETWORK_ID, subnet_id=_id("subnet"), cidr=SUBNET)
    for number, address in enumerate(addresses):
        text += _INSTANCE.format(
            number=number,
            network_id=NETWORK_ID,
            instance_id=_id(f"instance {address}"),
            port_id=_id(f"port {address}"),
            mac=f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}",
            address=address,
        )
    return text


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.UUID(NETWORK_ID), name))
