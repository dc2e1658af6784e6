"""The paths of a real OpenStack: Neutron's own agent, and mdmw in its place, before 400 real ports."""

import contextlib
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloud import agents, proxies
from cloud.cloud import Cloud
from cloud.seed import Port
from cloud.topology import configure

from bench import haproxies
from bench.servers import Listener, command
from bench.topology import METADATA_ADDRESS, SUBNET, Topology, within

INCUMBENT_WORKERS = 16
_NOVA_PORT = haproxies.NOVA_PORT + 1  # the real one is on the other
_WORKERS = 2
_PORTS_IN_A_CALL = 100

INCUMBENT = f"haproxy + {agents.NEUTRON}"
HAPROXY_REST = "haproxy + mdmw agent, REST"
HAPROXY_RPC = "haproxy + mdmw agent, RPC"
PROXY_REST = "mdmw proxy + agent, uWSGI, REST"
#: Path -> server of `bench.servers`.
COMBINED = {f"combined, REST, {server}": server for server in ("uWSGI", "granian")}
PATHS = (INCUMBENT, HAPROXY_REST, HAPROXY_RPC, PROXY_REST, *COMBINED)

_INI = """
[pipeline:proxy]
pipeline = identify-guest to-agent
[pipeline:combined]
pipeline = identify-guest resolve sign to-nova
[filter:identify-guest]
use = egg:mdmw#source-identify
mode = fixed
network_id = {network_id}
client_mac = true
[app:to-agent]
use = egg:mdmw#agent-forward
metadata_proxy_socket = {socket}
[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = neutron
config_file = {config_file}
[filter:sign]
use = egg:mdmw#hmac-sign
config_file = {config_file}
[app:to-nova]
use = egg:mdmw#nova-forward
config_file = {config_file}
"""
# Each guest's frames come to the MAC of its port, on one device for all of them.
_ACCEPT_ALL = """
table netdev guests {
    chain ingress {
        type filter hook ingress device "eth0" priority 0;
        meta pkttype set host;
    }
}
"""


@dataclass(frozen=True)
class Node:
    """Where the paths run, and the network whose guests ask."""

    cloud: Cloud
    namespaces: Topology
    network_id: str

    @contextlib.contextmanager
    def path(self, name: str) -> Iterator[list[int]]:
        """The processes of a path; yields their ids."""
        with contextlib.ExitStack() as stack:
            if name in COMBINED:
                yield [stack.enter_context(self._combined(COMBINED[name]))]
                return
            agent, workers = {
                INCUMBENT: (agents.NEUTRON, INCUMBENT_WORKERS),
                HAPROXY_RPC: (agents.RPC, _WORKERS),
            }.get(name, (agents.REST, _WORKERS))
            believed = name == PROXY_REST
            running = agents.running(self.cloud, agent, workers, _NOVA_PORT, trust_client_mac=believed)
            pids = [stack.enter_context(running)]
            yield [*pids, stack.enter_context(self._proxy(name))]

    def upstream(self, body: Path) -> contextlib.AbstractContextManager[int]:
        """The stand-in for Nova."""
        config = body.with_name("upstream.cfg")
        config.write_text(haproxies.upstream(body, _NOVA_PORT))
        return self._serve("upstream", ["haproxy", "-db", "-f", str(config)], _NOVA_PORT)

    def _proxy(self, name: str) -> contextlib.AbstractContextManager[int]:
        if name == PROXY_REST:
            return self._on_server("uWSGI", "proxy", {})
        (words,) = proxies.haproxy_commands(self.cloud, [f"network={self.network_id}"])
        return self._serve("proxy", words, haproxies.METADATA_PORT)

    @contextlib.contextmanager
    def _combined(self, server: str) -> Iterator[int]:
        with (
            tempfile.TemporaryDirectory() as shared,  # by its workers
            self._on_server(server, "combined", {"MDMW_GROUP_DIR": shared}) as pid,
        ):
            yield pid

    def _on_server(
        self, server: str, pipeline: str, env: dict[str, str]
    ) -> contextlib.AbstractContextManager[int]:
        ini = self.cloud.state.run / "mdmw.ini"
        own = agents.write_ini(self.cloud, agents.REST, _WORKERS, _NOVA_PORT)
        ini.write_text(_INI.format(network_id=self.network_id, config_file=own, socket=self.cloud.socket))
        listener = Listener(address=METADATA_ADDRESS, port=haproxies.METADATA_PORT)
        words = command(server, pipeline, listener)
        return self._serve(pipeline, words, listener.port, env | {"MDMW_PASTE_INI": str(ini)})

    def _serve(
        self, name: str, words: list[str], port: int, env: dict[str, str] | None = None
    ) -> contextlib.AbstractContextManager[int]:
        return self.cloud.services.serve(
            name, words, lambda: self.cloud.services.accepts(port, METADATA_ADDRESS), env
        )


def guests(cloud: Cloud, namespaces: Topology) -> str:
    """A network with a port for each guest, known to the node by its MAC; the network's id."""
    network = cloud.api.neutron("POST", "/networks", network={"name": "storm"})["network"]["id"]
    subnet = {"network_id": network, "ip_version": 4, "cidr": str(SUBNET)}
    subnet_id = cloud.api.neutron("POST", "/subnets", subnet=subnet)["subnet"]["id"]
    described = [
        {
            "network_id": network,
            "device_id": str(uuid.uuid4()),
            "device_owner": "compute:nova",
            "fixed_ips": [{"subnet_id": subnet_id, "ip_address": address}],
        }
        for address in namespaces.guest_addresses
    ]
    neighbours = []
    for start in range(0, len(described), _PORTS_IN_A_CALL):
        some = described[start : start + _PORTS_IN_A_CALL]
        for port in map(Port.of, cloud.api.neutron("POST", "/ports", ports=some)["ports"]):
            (address,) = port.addresses
            neighbours.append(f"neighbour replace {address} lladdr {port.mac} dev guests nud permanent")
    configure(cloud.node, *neighbours)
    subprocess.run(within(namespaces.guest, ["nft", "-f", "-"]), input=_ACCEPT_ALL, text=True, check=True)
    return network
