"""The metadata agents that take each other's place, all with Neutron's own files."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.processes import accepts_unix

from .cloud import Cloud
from .settings import NOVA_PORT, credentials

#: neutron-metadata-agent, and mdmw's agent as it asks Neutron.
NEUTRON, REST, RPC = "neutron-metadata-agent", "mdmw-rest", "mdmw-rpc"
AGENTS = (NEUTRON, REST, RPC)
_INI = """
[DEFAULT]
host = {name}
nova_metadata_host = 127.0.0.1
nova_metadata_port = {nova_port}
metadata_proxy_shared_secret = {shared}
metadata_workers = {workers}
"""
#: mdmw is in the virtualenv that runs this.
_MDMW = Path(sys.executable).with_name("mdmw-metadata-agent")


@contextlib.contextmanager
def running(
    cloud: Cloud, name: str, workers: int = 2, nova_port: int = NOVA_PORT, trust_client_mac: bool = False
) -> Iterator[int]:
    """One agent, on the socket that Neutron's `state_path` names; its name is also its host's."""
    ini = write_ini(cloud, name, workers, nova_port, trust_client_mac)
    program = cloud.state.virtualenv("neutron") / "bin" / name if name == NEUTRON else _MDMW
    files = (cloud.state.etc("neutron") / "neutron.conf", ini)
    command = [program, *(f"--config-file={file}" for file in files)]
    with cloud.services.serve(name, command, lambda: accepts_unix(cloud.socket)) as pid:
        yield pid


def write_ini(cloud: Cloud, name: str, workers: int, nova_port: int, trust_client_mac: bool = False) -> Path:
    """The agent's own file, beside neutron.conf; only REST has credentials."""
    text = _INI.format(name=name, shared=cloud.secrets.shared, workers=workers, nova_port=nova_port)
    if trust_client_mac:
        text += "trust_client_mac = true\n"
    if name == REST:
        text += f"[neutron]\n{credentials('nova', cloud.secrets.nova)}"
    ini = cloud.state.etc(name) / "metadata_agent.ini"
    ini.write_text(text)
    return ini
