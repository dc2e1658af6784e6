"""What an operator sees of the agents, and that what guards the way to Nova is really there."""

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLOUD_INIT = ROOT / "build" / "cloud-init"
CRAWL = ROOT / "tests" / "clients" / "crawl.py"
WITHIN = 10.0


def test_k_38_the_agent_is_shown_alive(cloud, agent, proxy):
    """K38, spec 5.1: `openstack network agent list` has the agent, on its host, alive."""
    deadline = time.monotonic() + WITHIN
    while not (found := cloud.api.neutron("GET", f"/agents?host={agent}")["agents"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)  # between two looks
    (shown,) = found
    assert shown["alive"] is True
    assert shown["agent_type"] == "Metadata agent"
    assert shown["binary"] == "neutron-metadata-agent"
    assert shown["configurations"]["metadata_proxy_socket"] == str(cloud.socket)


def test_spec_6_cloud_init_reads_everything(cloud, as_guest, tmp_path):
    """Spec 6: cloud-init's whole crawl, OpenStack's tree and EC2's."""
    as_guest("a", "/")
    expected = cloud.seed.instances["a"]
    command = ["ip", "netns", "exec", cloud.topology.guest("a"), sys.executable, str(CRAWL)]
    done = subprocess.run(
        [*command, str(CLOUD_INIT), str(tmp_path)],
        env=os.environ | {"RES_OPTIONS": "timeout:1 attempts:1"},  # it asks for names; nobody answers here
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["found"] is True
    assert found["metadata"]["uuid"] == expected.id
    assert found["metadata"]["project_id"] == expected.project_id
    assert base64.b64decode(found["userdata"]["base64"]) == expected.user_data
    assert found["network"]["links"][0]["ethernet_mac_address"] == expected.port.mac
    assert found["ec2"]["local-ipv4"] == expected.port.addresses[0]
    assert found["ec2"]["instance-id"].startswith("i-")
