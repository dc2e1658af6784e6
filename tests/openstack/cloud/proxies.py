"""The proxies of networks and routers: Neutron's haproxy, mdmw's, or one mdmw-node for all."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.topology import inside

from . import node
from .cloud import Cloud
from .seed import Network
from .topology import METADATA_V4, METADATA_V6, ROUTER_PORT, dhcp_device, qdhcp, qrouter

HAPROXY, MDMW, NODE = "haproxy", "mdmw-ns-metadata-proxy", "mdmw-haproxy"
PROXIES = (HAPROXY, MDMW, NODE)
_NETWORK_PORT = 80
_RENDER = Path(__file__).with_name("neutron_haproxy.py")
_MDMW = Path(sys.executable).with_name(MDMW)
_LISTENING = "0A"


@contextlib.contextmanager
def running(cloud: Cloud, name: str) -> Iterator[None]:
    """One proxy in the namespace of each network and of each router."""
    networks = list(cloud.seed.networks.values())
    if name == NODE:
        node.admit_workers(cloud)
        with node.beside_neutron(cloud) as agents:
            for scope in _scopes(networks):
                agents.spawn(scope)
            yield
            for scope in _scopes(networks):
                agents.destroy(scope)
        return
    commands = _haproxy(cloud, networks) if name == HAPROXY else _mdmw(cloud, networks)
    places = [
        place
        for network in networks
        for place in ((qdhcp(network), _NETWORK_PORT), (qrouter(network), ROUTER_PORT))
    ]
    with contextlib.ExitStack() as stack:
        for (namespace, port), command in zip(places, commands, strict=True):
            stack.enter_context(_serve(cloud, namespace, port, command))
        yield


def listens(namespace: str, port: int) -> bool:
    """Whether anybody listens; not by connecting, which the router's rules forbid."""
    with inside(namespace):
        lines = [
            line.split()
            for version in ("tcp", "tcp6")
            for line in Path(f"/proc/thread-self/net/{version}").read_text().splitlines()[1:]
        ]
    return any(int(line[1].rpartition(":")[2], 16) == port and line[3] == _LISTENING for line in lines)


def _serve(
    cloud: Cloud, namespace: str, port: int, command: list[str]
) -> contextlib.AbstractContextManager[int]:
    return cloud.services.serve(
        f"proxy-{namespace}", command, lambda: listens(namespace, port), namespace=namespace
    )


def _haproxy(cloud: Cloud, networks: list[Network]) -> list[list[str]]:
    return haproxy_commands(cloud, _scopes(networks))


def _scopes(networks: list[Network]) -> list[str]:
    """For each network its own and its router's."""
    scopes = []
    for network in networks:
        scopes += [f"network={network.id}={dhcp_device(network)}", f"router={network.router_id}"]
    return scopes


def haproxy_commands(cloud: Cloud, scopes: Sequence[str]) -> list[list[str]]:
    """haproxy as Neutron's driver configures it, for each scope as neutron_haproxy.py takes it."""
    conf = cloud.state.etc("neutron") / "neutron.conf"
    python = cloud.state.virtualenv("neutron") / "bin" / "python"
    done = subprocess.run([python, _RENDER, conf, *scopes], stdout=subprocess.PIPE, text=True, check=True)
    return [["haproxy", "-db", "-f", path] for path in done.stdout.split()]


def _mdmw(cloud: Cloud, networks: list[Network]) -> list[list[str]]:
    """For each network its own and its router's."""
    commands = []
    for network in networks:
        addresses = f"{METADATA_V4},{METADATA_V6}%{dhcp_device(network)}"
        by_network = [f"--network_id={network.id}", f"--metadata_port={_NETWORK_PORT}", f"--bind={addresses}"]
        by_router = [f"--router_id={network.router_id}", f"--metadata_port={ROUTER_PORT}"]
        commands += [mdmw_command(cloud, *words) for words in (by_network, by_router)]
    return commands


def mdmw_command(cloud: Cloud, *words: str) -> list[str]:
    """mdmw's proxy with the arguments of P-9, before the agent of this cloud."""
    return [str(_MDMW), "--nodaemonize", f"--metadata_proxy_socket={cloud.socket}", *words]
