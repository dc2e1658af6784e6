"""cloud-init's OpenStack datasource in a guest's namespace, through proxy, agent and signed hop."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mdmw.cli.demo import Demo, running
from mdmw.inventory.values import Guest

CLOUD_INIT = Path(__file__).parents[2] / "build" / "cloud-init"
CRAWL = Path(__file__).with_name("crawl.py")
TYPICAL = Path(__file__).with_name("typical.yaml")
HOPS = 2  # the agent and Nova; the proxy, mdmw-node, passes each request on once
REQUESTS_OF_A_BOOT = 28  # spec 6: one key, user data, two block devices

pytestmark = [
    pytest.mark.usefixtures("as_root"),
    pytest.mark.skipif(
        not (CLOUD_INIT / "cloudinit").is_dir(),
        reason="Debian's cloud-init is not there (tools/cloud-init build/cloud-init)",
    ),
]


def crawl(demo: Demo, guest: Guest, scratch: Path) -> dict:
    command = ["ip", "netns", "exec", demo.namespaces[guest.id], sys.executable, str(CRAWL)]
    done = subprocess.run(
        [*command, str(CLOUD_INIT), str(scratch)],
        env=os.environ | {"RES_OPTIONS": "timeout:1 attempts:1"},  # it asks for names; nobody answers here
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def sample():
    with running(in_namespaces=True) as demo:
        yield demo


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["blue", "green", "red"])
def crawled(request, sample, tmp_path_factory):
    guest = sample.inventory.instances[request.param]
    return guest, crawl(sample, guest, tmp_path_factory.mktemp("cloud"))


def bytes_of(value) -> bytes:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode()


def test_spec_6_cloud_init_reads_every_field(crawled):
    """Spec 6, 7.2 to 7.5: what cloud-init believes equals the inventory, field by field."""
    guest, found = crawled
    assert found["found"] is True
    metadata = found["metadata"]
    assert metadata["uuid"] == metadata["instance-id"] == guest.id
    assert metadata["name"] == guest.name
    assert metadata["project_id"] == guest.project_id
    assert metadata["launch_index"] == guest.launch_index
    assert metadata["availability_zone"] == (guest.availability_zone or None)
    assert metadata["hostname"] == metadata["local-hostname"] == f"{guest.hostname}.novalocal"
    assert metadata.get("meta", {}) == guest.meta
    assert metadata.get("public_keys", {}) == {key.name: key.data for key in guest.keys}
    assert metadata.get("keys", []) == [
        {"name": key.name, "type": key.type, "data": key.data} for key in guest.keys
    ]
    assert metadata.get("admin_pass") == guest.admin_pass
    assert metadata["devices"] == [
        {name: value for name, value in device.items() if value is not None} | {"tags": list(device["tags"])}
        for device in map(device_fields, guest.devices)
    ]
    assert len(bytes_of(metadata["random_seed"])) == 512
    assert all(metadata[name] == value for name, value in guest.extra_metadata.items())
    assert bytes_of(found["userdata"]) == (guest.user_data or b"")
    assert found["vendordata"] == guest.vendor_data
    assert found["vendordata2"] == {"static": guest.vendor_data, **guest.vendor_data2}
    assert {path: bytes_of(content) for path, content in found["files"].items()} == {
        file.path: file.content for file in guest.files
    }


def device_fields(device) -> dict:
    shown = ("type", "bus", "address", "mac", "serial", "path", "tags")
    fields = {name: getattr(device, name) for name in shown}
    return fields | ({"vf_trusted": bool(device.vf_trusted)} if device.type == "nic" else {})


def test_spec_6_cloud_init_reads_the_network(crawled):
    """Spec 7.5: links and networks are those of the ports."""
    guest, found = crawled
    links = {link["vif_id"]: link for link in found["network"]["links"]}
    assert {port.id: port.mac for port in guest.ports} == {
        vif: link["ethernet_mac_address"] for vif, link in links.items()
    }
    assert {network["network_id"] for network in found["network"]["networks"]} == {
        port.network_id for port in guest.ports
    }
    static = {network.get("ip_address") for network in found["network"]["networks"]} - {None}
    assert static <= {address for port in guest.ports for address in port.addresses}


def test_spec_6_cloud_init_reads_the_ec2_tree(crawled):
    """Spec 7.3: the EC2 tree, which cloud-init reads from 169.254.169.254 beside the other."""
    guest, found = crawled
    ec2 = found["ec2"]
    assert ec2["instance-id"].startswith("i-")
    assert ec2["ami-id"] == guest.ami_id
    assert ec2["hostname"] == ec2["local-hostname"] == ec2["public-hostname"]
    assert ec2["local-ipv4"] in guest.ports[0].addresses
    assert ec2["public-ipv4"] == guest.public_ipv4
    assert ec2["instance-type"] == guest.flavor
    assert ec2["block-device-mapping"] == guest.block_device_mapping
    assert ec2.get("public-keys", {}) == {key.name: key.data for key in guest.keys}
    groups = ec2["security-groups"]
    assert (groups if isinstance(groups, list) else [groups]) == list(guest.security_groups)
    assert ec2["placement"] == {"availability-zone": guest.availability_zone}


def test_spec_6_a_boot_is_28_requests(tmp_path, monkeypatch):
    """Spec 6: 28 requests for the typical guest, which reach the agent and Nova, and are answered."""
    log = tmp_path / "access.log"
    log.touch()
    log.chmod(0o666)  # the demo's servers are not root
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--access-logfile {log} --access-logformat '%(s)s %(U)s'")
    with running(in_namespaces=True, inventory_file=TYPICAL) as demo:
        found = crawl(demo, demo.inventory.instances[0], tmp_path)
    assert found["metadata"]["uuid"] == yaml.safe_load(TYPICAL.read_text())["instances"][0]["id"]
    lines = log.read_text().splitlines()
    assert len(lines) == HOPS * REQUESTS_OF_A_BOOT
    assert {line.split()[0] for line in lines} == {"200"}
