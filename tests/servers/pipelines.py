"""What the servers run: a paste file and an inventory, and who the guests are."""

import time
from dataclasses import dataclass
from pathlib import Path

from mdmw import wire
from mdmw.records import Scope, Source
from mdmw.signing import Signer

NOVA_SECRET = "nova-secret-of-the-test"
RELAY_SECRET = "relay-secret-of-the-test"

BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
GREEN = "c47e0d96-2b81-4a3f-8f57-e09d6c1a5b74"
METADATA_ADDRESS = "169.254.169.254"
PORT, GREEN_PORT = 8080, 8081


@dataclass(frozen=True)
class Guest:
    """A guest on a network, and its instance."""

    address: str
    instance: str
    project: str
    network: str = BLUE

    @property
    def source(self) -> Source:
        return Source(self.address, Scope("network", self.network))

    def to_nova(self) -> list[tuple[str, str]]:
        """The headers by which Nova knows it."""
        signature = Signer([NOVA_SECRET]).sign(self.instance.encode())
        return [
            ("X-Instance-ID", self.instance),
            ("X-Instance-ID-Signature", signature),
            ("X-Tenant-ID", self.project),
            ("X-Forwarded-For", self.address),
        ]

    def to_agent(self) -> list[tuple[str, str]]:
        """The headers by which the agent knows it."""
        return [("X-Forwarded-For", self.address), ("X-Neutron-Network-ID", self.network)]


ADA = Guest("10.0.0.5", "7c52af88-d14b-45ae-87cf-be154d8c8638", "4a1d0c7be6f94b5d9a3e8f2071c6d5b4")
BEN = Guest("10.0.0.6", "d0386b9e-41f7-4c25-b8ae-7f5c92e1d604", "86f2c5d90b7e4a13bd6c1e4f8a2097c3")
CYD = Guest("10.0.0.7", "6be41d0f-a75c-4938-9e02-38d1f5c7ba6e", "86f2c5d90b7e4a13bd6c1e4f8a2097c3")
# The address of the first, on another network.
ADA_ON_GREEN = Guest(
    "10.0.0.5", "0f6f2a4e-9b43-4f0c-8e0b-6f6a3d1c9b77", "aa00c5d90b7e4a13bd6c1e4f8a2097c3", GREEN
)
GUESTS = (ADA, BEN, CYD)
STRANGER = "10.0.0.99"  # on the network, but no instance has it

ADDRESSES = [
    *(f"{guest.address}/32" for guest in GUESTS),
    f"{STRANGER}/32",
    f"{METADATA_ADDRESS}/32",
]

_INI = """
[pipeline:proxy]
pipeline = identify-fixed to-agent
[pipeline:agent]
pipeline = identify-relay resolve sign to-nova
[pipeline:combined]
pipeline = identify-listener resolve sign to-nova

[filter:identify-fixed]
use = egg:mdmw#source-identify
mode = fixed
network_id = {BLUE}
[filter:identify-listener]
use = egg:mdmw#source-identify
mode = listener
listeners_file = %(here)s/listeners.json
[filter:identify-relay]
use = egg:mdmw#source-identify
mode = relay
relay_peers = 127.0.0.1
relay_shared_secret = {RELAY_SECRET}
[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = inventory
inventory_file = %(here)s/inventory.yaml
[filter:sign]
use = egg:mdmw#hmac-sign
metadata_proxy_shared_secret = {NOVA_SECRET}
[app:to-agent]
use = egg:mdmw#agent-forward
metadata_proxy_socket = {nova}
[app:to-nova]
use = egg:mdmw#nova-forward
nova_metadata_host = unix:{nova}
"""

_NETWORK = """
  - id: {id}
    name: {name}
    subnets:
      - id: {subnet}
        cidr: 10.0.0.0/24
        gateway_ip: null
"""
_INSTANCE = """
  - id: {guest.instance}
    project_id: {guest.project}
    name: guest-{number}
    ports:
      - id: a3f04c61-8e2d-47b9-95d0-c6e71b8f2a{number:02}
        network: {guest.network}
        mac: fa:16:3e:5b:10:{number:02}
        addresses: [{guest.address}]
"""


def write(directory: Path, nova: Path) -> Path:
    """The paste file, with its inventory and listeners beside it."""
    networks = _NETWORK.format(id=BLUE, name="blue", subnet="8d2b7c14-0f35-4e0a-b6a9-51c7e9d3f042")
    networks += _NETWORK.format(id=GREEN, name="green", subnet="35a1f6e8-94c2-4d7b-a0e3-2c8b7f5d9160")
    instances = "".join(
        _INSTANCE.format(guest=guest, number=number) for number, guest in enumerate((*GUESTS, ADA_ON_GREEN))
    )
    (directory / "inventory.yaml").write_text(f"networks:{networks}\ninstances:{instances}")
    (directory / "listeners.json").write_text(
        f'{{"port:{PORT}": {{"network": "{BLUE}"}}, "port:{GREEN_PORT}": {{"network": "{GREEN}"}}}}'
    )
    ini = directory / "api-paste.ini"
    ini.write_text(_INI.format(BLUE=BLUE, NOVA_SECRET=NOVA_SECRET, RELAY_SECRET=RELAY_SECRET, nova=nova))
    return ini


def relay_signature(guest: Guest, method: str, target: str) -> tuple[str, str]:
    """What a proxy on TCP adds."""
    timestamp = str(int(time.time()))
    message = wire.relay_message(timestamp, method, target, wire.source_headers(guest.source))
    return wire.RELAY_SIGNATURE, f"{timestamp}:{Signer([RELAY_SECRET]).sign(message)}"
