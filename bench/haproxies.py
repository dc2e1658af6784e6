"""Configurations of haproxy: the upstream that stands for Nova, and the limits to compare mdmw with."""

import json
from pathlib import Path

from bench.topology import METADATA_ADDRESS

#: Answered by the upstream at once, and after `NOVA_TAKES`.
AT_ONCE = "/openstack/latest/meta_data.json"
WAITING = "/openstack/2018-08-27/meta_data.json"
NOVA_TAKES = 0.020
NOVA_PORT = 8775
METADATA_PORT = 80

_COMMON = """
global
    maxconn {maxconn}
    nbthread {threads}
defaults
    mode http
    retries 3
    timeout http-request 30s
    timeout connect 30s
    timeout client 32s
    timeout server 32s
    timeout http-keep-alive 30s
"""

# A tarpit is the one rule of haproxy that waits a fixed time on every request and keeps the connection.
_UPSTREAM = """
    timeout tarpit {wait}ms
frontend nova
    bind 127.0.0.1:{port}
    bind {address}:{port}{elsewhere}
    http-request tarpit status 200 content-type application/json file {body} if !{{ path {at_once} }}
    http-request return status 200 content-type application/json file {body}
"""

# As Neutron's DHCP agent writes it.
_NAMESPACE_PROXY = """
    option http-server-close
    option forwardfor
listen listener
    bind {address}:{port}
    server metadata {socket}
    http-request del-header X-Neutron-Router-ID
    http-request set-header X-Neutron-Network-ID {network_id}
"""

# A limit looks nothing up, signs nothing, and keeps its connections to Nova.
_AGENT = """
    http-reuse always
listen agent
    bind unix@{socket}
    server nova 127.0.0.1:{nova_port}
"""
_ONE_HOP = """
    http-reuse always
    option forwardfor
listen listener
    bind {address}:{port} namespace {namespace}
    server nova 127.0.0.1:{nova_port}
"""


def meta_data() -> bytes:
    """A meta_data.json of 2.5 KiB, most of it keys and random seed, as Nova answers it."""
    document = {
        "random_seed": "r4nd0mS33d+/" * 57,
        "uuid": "d8e02d56-2648-49a3-bf97-6be8f1204f38",
        "availability_zone": "nova",
        "keys": [
            {"data": f"ssh-rsa {'AAAAB3NzaC1yc2E' * 24} key-{n}\n", "type": "ssh", "name": f"key-{n}"}
            for n in range(3)
        ],
        "hostname": "test.novalocal",
        "launch_index": 0,
        "devices": [],
        "meta": {"role": "web", "priority": "low"},
        "public_keys": {"mykey": f"ssh-rsa {'AAAAB3NzaC1yc2E' * 24} mykey\n"},
        "project_id": "f7ac731cc11f40efbc03a9f9e1d1d21f",
        "name": "test",
    }
    text = json.dumps(document)
    return text.encode()


def upstream(body: Path, port: int = NOVA_PORT, namespace: str = "") -> str:
    """The stand-in for Nova: `body` to everybody, at once or after a wait, depending on the path.

    It also listens on the loopback of `namespace`, if one is given.
    """
    wait = round(NOVA_TAKES * 1000)
    elsewhere = f"\n    bind 127.0.0.1:{port} namespace {namespace}" if namespace else ""
    return _COMMON.format(maxconn=8192, threads=1) + _UPSTREAM.format(
        address=METADATA_ADDRESS, port=port, elsewhere=elsewhere, wait=wait, body=body, at_once=AT_ONCE
    )


def namespace_proxy(socket: Path, network_id: str, port: int = METADATA_PORT) -> str:
    """The proxy of one network, which says on the unix socket which network that is."""
    return _COMMON.format(maxconn=1024, threads=2) + _NAMESPACE_PROXY.format(
        address=METADATA_ADDRESS, port=port, socket=socket, network_id=network_id
    )


def agent(socket: Path) -> str:
    """The second of two hops: from the unix socket to the upstream."""
    return _COMMON.format(maxconn=8192, threads=2) + _AGENT.format(socket=socket, nova_port=NOVA_PORT)


def one_hop(namespace: str, port: int) -> str:
    """The only hop: from a listener in `namespace` to the upstream beside this process."""
    return _COMMON.format(maxconn=8192, threads=2) + _ONE_HOP.format(
        address=METADATA_ADDRESS, port=port, namespace=namespace, nova_port=NOVA_PORT
    )
