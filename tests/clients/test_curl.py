"""curl in guests' namespaces, through proxy, unix socket, agent and signed hop."""

import json
import subprocess

import pytest

from mdmw.cli.demo import running

URL = "http://169.254.169.254"
FORGED = [
    "X-Forwarded-For: 10.0.1.5",
    "X_Forwarded_For: 10.0.1.5",
    "x-neutron-network-id: {other}",
    "X_Neutron_Network_ID: {other}",
    "X-Neutron-Router-ID: {router}",
    "X-Quantum-Network-ID: {other}",
    "X-OVN-Network-ID: {other}",
    "X-Instance-ID: {victim}",
    "X-Instance-ID-Signature: 0",
    "X-Tenant-ID: {project}",
    "X-Metadata-Provider: p",
    "Forwarded: for=10.0.1.5",
    "X-Mdmw-Client-MAC: fa:16:3e:7d:11:05",
    "Connection: X-Forwarded-For, X-Neutron-Network-ID",
]

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture(scope="module")
def demo():
    with running(in_namespaces=True) as demo:
        yield demo


@pytest.fixture(scope="module")
def curl(demo):
    def call(number: int, path: str, *options: str) -> tuple[int, bytes]:
        namespace = demo.namespaces[demo.inventory.instances[number].id]
        command = ["ip", "netns", "exec", namespace, "curl", "-sS", "-m", "10", "-w", "\n%{http_code}"]
        done = subprocess.run([*command, *options, URL + path], capture_output=True, check=True)
        body, _, status = done.stdout.rpartition(b"\n")
        return int(status), body

    return call


def test_w_5_same_address_on_two_networks(demo, curl):
    """W-5, 2.3: the same address on two networks, and one behind a router: each gets its own."""
    for number, guest in enumerate(demo.inventory.instances):
        status, body = curl(number, "/openstack/latest/meta_data.json")
        assert (status, json.loads(body)["uuid"]) == (200, guest.id)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "all at once"])
def test_w_1_w_2_forged_headers_change_nothing(demo, curl, together):
    """W-1, W-2, W-5: whatever a guest writes, it stays itself."""
    me, victim, other_side = demo.inventory.instances
    values = {
        "other": victim.ports[0].network_id,
        "router": demo.inventory.routers[0].id,
        "victim": other_side.id,
        "project": victim.project_id,
    }
    headers = [header.format(**values) for header in FORGED]
    for chosen in [headers] if together else [[header] for header in headers]:
        options = [word for header in chosen for word in ("-H", header)]
        status, body = curl(0, "/openstack/latest/meta_data.json", *options)
        assert (status, json.loads(body)["uuid"]) == (200, me.id)


def test_w_13_gzip_user_data_arrives_as_it_is(demo, curl):
    """W-13: stored gzip is content; also when curl would take a content coding."""
    for options in ([], ["--compressed"]):
        status, body = curl(1, "/openstack/latest/user_data", *options)
        assert (status, body) == (200, demo.inventory.instances[1].user_data)


def test_w_16_head(curl):
    """W-16: HEAD has the length of GET and no body."""
    _, body = curl(0, "/openstack/latest/user_data")
    status, head = curl(0, "/openstack/latest/user_data", "--head")
    assert status == 200
    assert f"content-length: {len(body)}\r\n".encode() in head.lower()


def test_w_15_7_4_password_is_written_once(curl):
    """W-8, W-15, spec 7.4: empty, then set by POST through both hops, then 409."""
    path = "/openstack/latest/password"
    assert curl(2, path) == (200, b"")
    assert curl(2, path, "--data-binary", "b64 cipher\x01text") == (200, b"")
    assert curl(2, path) == (200, b"b64 cipher\x01text")
    assert curl(2, path, "--data-binary", "other")[0] == 409
    assert curl(0, path) == (200, b"")


def test_w_6_w_7_w_9_refusals(curl):
    """W-6, W-7, W-9: what is refused is refused with a 4xx at the first hop."""
    assert curl(0, "/openstack", "-X", "TRACE")[0] == 405
    assert curl(0, "/a\\b", "--path-as-is")[0] == 400
    assert curl(0, "/" + "a" * 9000)[0] == 414
    assert curl(0, "/openstack/latest/password", "--data-binary", "x" * 70000)[0] == 413
    assert curl(0, "/nothing/here")[0] == 404
