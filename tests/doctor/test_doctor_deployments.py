"""mdmw doctor finds out by itself how metadata is served on its host."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import plants
import pytest
from cli.daemons import program, running
from node.daemon import Site, site
from node.kvm_host import inside, ip, obstacle
from site_of_doctor import SECRET, Node, doctor

from mdmw.node.namespaces import run

pytestmark = pytest.mark.skipif(bool(obstacle("haproxy")), reason=f"needs root and: {obstacle('haproxy')}")

METADATA = "169.254.169.254"
_INI = """
[pipeline:standalone]
pipeline = identify inventory responder
[pipeline:combined]
pipeline = identify resolve sign to-nova
[filter:identify]
use = egg:mdmw#source-identify
mode = listener
[filter:inventory]
use = egg:mdmw#instance-resolve
resolver = inventory
inventory_file = {inventory}
[app:responder]
use = egg:mdmw#responder
inventory_file = {inventory}
password_db = {directory}/passwords
[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = neutron
config_file = {options}
[filter:sign]
use = egg:mdmw#hmac-sign
config_file = {options}
[app:to-nova]
use = egg:mdmw#nova-forward
config_file = {options}
"""


@pytest.fixture
def space(node: Node) -> Iterator[str]:
    """The namespace of the isolated network on another node, as Neutron's DHCP agent makes it."""
    name = f"qdhcp-{uuid.uuid4()}"
    node.host.namespace(name)
    node.host.cable(name, "tap1", node.bridges[0], "fa:16:3e:5b:30:07")
    for words in (
        "link set tap1 up",
        "address add 10.0.1.7/24 dev tap1",
        f"address add {METADATA}/32 dev tap1",
    ):
        ip(name, words)
    yield name
    run("ip", "netns", "delete", name)


@contextlib.contextmanager
def served(node: Node, pipeline: str) -> Iterator[Site]:
    """A second mdmw-node, without a plan."""
    with site() as place:
        values = {"inventory": node.inventory, "directory": place.directory, "options": node.agent_ini}
        place.ini.write_text(_INI.format(**values))
        place.started("--pipeline", pipeline)
        yield place


def listener(node: Node, space: str) -> list[object]:
    return [space, [METADATA, 80, None], ["network", node.isolated]]


def test_standalone(node: Node, space: str, capsys) -> None:
    """No agent, no OpenStack; an inventory that cannot be read is a fault."""
    with served(node, "standalone") as place:
        place.want(listener(node, space))
        words = ["--run-dir", place.directory, "--address", node.address, "--network", node.isolated]
        found = doctor(capsys, *words)
        assert (found.status, found.first) == (0, "Nothing is wrong."), found
        assert "inventory" in found.text
        assert "Nova" not in found.text
        found = doctor(capsys, *words[:2], "--network", node.isolated, "--address", "10.0.1.77")
        assert found.kind == "unknown-address", found
        text = node.inventory.read_text()
        node.inventory.write_text("networks: 1")
        found = doctor(capsys, *words)
        node.inventory.write_text(text)
        assert found.kind == "configuration", found
        assert "networks" in found.text


def test_combined(node: Node, space: str, capsys) -> None:
    """No agent: mdmw-node asks Keystone, Neutron and Nova, and so does the doctor."""
    with served(node, "combined") as place:
        place.want(listener(node, space))
        found = doctor(capsys, "--run-dir", place.directory)
        assert (found.status, found.first) == (0, "Nothing is wrong."), found
        assert "gets its metadata from Nova" in " ".join(found.text.split())
        with plants.other_secret(node):
            found = doctor(capsys, "--run-dir", place.directory)
        assert found.kind == "wrong-secret", found
        assert SECRET not in found.text
        with plants.other_project(node):
            found = doctor(capsys, "--run-dir", place.directory)
        assert found.kind == "answer", found


_CONF = """
    user nobody
    group nogroup
    pidfile {directory}/{id}.pid.haproxy
listen listener
    bind 169.254.169.254:80
    server metadata {agent}
    http-request set-header X-Neutron-Network-ID {id}
"""


def test_mdmw_haproxy(node: Node, space: str, tmp_path: Path, capsys) -> None:
    """Started by Neutron's agent in place of haproxy; when its process is gone, nobody listens."""
    id = space.removeprefix("qdhcp-")
    (tmp_path / "ns-metadata-proxy").mkdir()
    conf = tmp_path / "ns-metadata-proxy" / f"{id}.conf"
    conf.write_text(_CONF.format(directory=tmp_path, id=id, agent=node.socket))
    options = tmp_path / "neutron.conf"
    options.write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    with served(node, "combined") as place:
        environ = os.environ | {"MDMW_NODE_SOCKET": str(place.directory / "node.sock")}
        command = ["ip", "netns", "exec", space, program("mdmw-haproxy"), "-f", str(conf)]
        subprocess.run(command, check=True, env=environ, timeout=30)
        words = ["--run-dir", place.directory, "--config-file", node.agent_ini, "--config-file", options]
        found = doctor(capsys, *words)
        assert (found.status, found.first) == (0, "Nothing is wrong."), found
        os.kill(int((tmp_path / f"{id}.pid.haproxy").read_text()), signal.SIGTERM)
        place.until(lambda: place.listeners() == [])
        found = doctor(capsys, *words)
    assert found.kind == "listener-missing", found


def test_the_proxy_of_old(node: Node, space: str, capsys) -> None:
    """Nothing but its process tells of mdmw-ns-metadata-proxy, so the network is named."""
    id = space.removeprefix("qdhcp-")
    port = dataclasses.replace(node.port, id=str(uuid.uuid4()), network_id=id)
    arguments = [f"--network_id={id}", f"--bind={METADATA}", "--metadata_port=80", "--nodaemonize"]
    command = ["ip", "netns", "exec", space, program("mdmw-ns-metadata-proxy"), *arguments]
    words = ["--run-dir", "/nowhere", "--config-file", node.agent_ini, "--network", id]
    with plants.attributes(node.cloud, ports=(*node.cloud.ports, port)):
        with running([*command, f"--metadata_proxy_socket={node.socket}"]):
            plants.until(lambda: f"{METADATA}:80" in inside(space, "ss", "-Hltn"))
            found = doctor(capsys, *words)
            assert (found.status, found.first) == (0, "Nothing is wrong."), found
            assert f"{node.address} in network {id} gets its metadata" in " ".join(found.text.split())
        found = doctor(capsys, *words)
    assert found.kind == "listener-missing", found
