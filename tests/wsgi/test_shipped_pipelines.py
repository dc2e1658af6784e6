"""The shipped pipelines, assembled from the shipped file, with a WSGI validator between every two stages.

Proxy, agent and Nova are joined by real unix sockets.
"""

import json
import socket
import tempfile
from pathlib import Path

import pytest
from guest import call
from observed import settle
from peers import Peer, response, silent
from shipped import BLUE, GREEN, LISTENER, OBSERVERS, assemble, edit, install, server

from mdmw.wsgi.pipelines import NAMES, load, names, stages

PLACE = {"mdmw.listener": LISTENER}
ADA = "7c52af88-d14b-45ae-87cf-be154d8c8638"  # has 10.0.0.5 on blue
FORGED = [
    *[("X-Forwarded-For", "10.0.0.6"), ("X-Neutron-Network-ID", GREEN), ("X_Neutron_Network_ID", GREEN)],
    *[("x-neutron-router-id", GREEN), ("X-Quantum-Network-ID", GREEN), ("X-OVN-Network-ID", GREEN)],
    *[("X-Instance-ID", "victim"), ("X-Instance-ID-Signature", "0" * 64), ("X-Tenant-ID", "victim")],
    *[
        ("X-Metadata-Provider", "nsx"),
        ("X-Metadata-Provider-Signature", "0" * 64),
        ("Forwarded", "for=10.0.0.6"),
    ],
    *[("X-Real-IP", "10.0.0.6"), ("X-Mdmw-Client-MAC", "00:00:00:00:00:01"), ("X-Project-Id", "victim")],
    *[("X-Mdmw-Relay-Signature", "1:0"), ("X-Identity-Status", "Confirmed"), ("X-Roles", "admin")],
]


class Cloud:
    """Each pipeline of the shipped file, and sockets where the file says they are."""

    def __init__(self, folder):
        self.folder = folder
        self.ini = install(folder)
        self.peers = []
        self.terminals = []
        self.apps = []

    def app(self, pipeline):
        whole, terminal = assemble(self.ini, pipeline)
        self.terminals.append(terminal)
        self.apps.append(whole)
        return whole

    def serve(self, name, script):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / name))
        listener.listen(64)
        self.peers.append(Peer(listener, (script,), None))
        return self.peers[-1]

    def front(self, pipeline):
        """The pipeline with all that is behind it."""
        if pipeline in ("combined", "proxy"):
            self.serve("nova", server(self.app("nova")))
        if pipeline == "proxy":
            self.serve("metadata_proxy", server(self.app("agent")))
        return self.app(pipeline)

    def close(self):
        for terminal in self.terminals:
            for idle in getattr(getattr(terminal, "_upstream", None), "_idle", {}).values():
                while idle:
                    idle.pop().close()
        for peer in self.peers:
            peer.close()
        for app in self.apps:
            settle(app)  # observers write into the folder


@pytest.fixture
def cloud():
    with tempfile.TemporaryDirectory(prefix="mdmw") as folder:
        made = Cloud(Path(folder))
        yield made
        made.close()


@pytest.fixture(params=["standalone", "combined", "proxy"])
def front(cloud, request):
    """What a guest sees: the same, however the pipelines are cut."""
    return cloud.front(request.param)


def test_the_shipped_file_has_what_the_modules_load():
    assert set(NAMES) <= set(names(str(Path(__file__).parents[2] / "etc" / "api-paste.ini")))


def test_the_packaged_copy_is_the_shipped_one():
    root = Path(__file__).parents[2]
    for name in ("api-paste.ini", "inventory.yaml"):
        assert (root / "mdmw" / "etc" / name).read_bytes() == (root / "etc" / name).read_bytes()


@pytest.mark.parametrize("pipeline", NAMES)
def test_every_pipeline_loads(cloud, pipeline):
    assert callable(load(pipeline, str(cloud.ini)))


@pytest.mark.parametrize("pipeline", NAMES)
def test_stages_are_in_request_order(cloud, pipeline):
    expected = {
        "proxy": ["source-identify", "agent-forward"],
        "agent": ["source-identify", "instance-resolve", "hmac-sign", "nova-forward"],
        "combined": ["source-identify", "instance-resolve", "hmac-sign", "nova-forward"],
        "standalone": ["source-identify", "instance-resolve", "responder"],
        "nova": ["hmac-verify", "responder"],
    }
    used = [stage.entry_point for stage in stages(str(cloud.ini), pipeline)]
    assert used == [*OBSERVERS.split(), *expected[pipeline]]


def test_a_guest_gets_its_own(front):
    reply = call(front, target="/openstack/latest/meta_data.json", **PLACE)
    assert reply.status == 200
    assert json.loads(reply.body)["uuid"] == ADA
    assert call(front, target="/latest/meta-data/local-ipv4", **PLACE).body == b"10.0.0.5"


def test_the_versions(front):
    reply = call(front, target="/", **PLACE)
    assert (reply.status, b"latest" in reply.body) == (200, True)


@pytest.mark.parametrize("forged", [FORGED, [("Connection", ", ".join(name for name, _ in FORGED)), *FORGED]])
def test_forged_headers_change_nothing(front, forged):
    """W-1, W-2, W-5, through all stages and hops."""

    def told(headers):
        reply = call(front, target="/openstack/latest/meta_data.json", headers=headers, **PLACE)
        assert reply.status == 200
        return {key: value for key, value in json.loads(reply.body).items() if key != "random_seed"}

    assert told(forged) == told([])


@pytest.mark.parametrize("pipeline", ["standalone", "combined", "proxy"])
def test_the_same_address_on_another_network(cloud, pipeline):
    """Isolation: blue and green have the same subnet, and a guest each with the same address."""
    table = {LISTENER: {"network": BLUE}, "the green one": {"network": GREEN}}
    (cloud.folder / "listeners.json").write_text(json.dumps(table))
    front = cloud.front(pipeline)
    told = {
        listener: json.loads(
            call(
                front,
                target="/openstack/latest/meta_data.json",
                headers=FORGED,
                **{"mdmw.listener": listener},
            ).body
        )["uuid"]
        for listener in table
    }
    assert told[LISTENER] == ADA
    assert told["the green one"] not in (ADA, None)


def test_nobody_there(front):
    """R-6: 404; nothing about networks in it."""
    reply = call(front, target="/latest/meta-data/", peer="10.0.0.99", **PLACE)
    assert reply.status == 404
    assert BLUE.encode() not in reply.body
    assert b"10.0.0.99" not in reply.body


@pytest.mark.parametrize("peer", ["127.0.0.1", "169.254.169.254", "", "x"])
def test_nobody_possible(front, peer):
    assert call(front, target="/latest/", peer=peer, **PLACE).status == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [("/no/such/path", 404), ("/latest/meta-data/none", 404), ("/openstack/latest/x", 404)],
)
def test_no_such_path(front, target, status):
    assert call(front, target=target, **PLACE).status == status


@pytest.mark.parametrize(
    "target", ["/", "/latest/meta-data/hostname", "/openstack/latest/meta_data.json", "/none"]
)
def test_head_is_get_without_a_body(front, target):
    """W-16."""
    got, head = call(front, target=target, **PLACE), call(front, "HEAD", target, **PLACE)
    assert (head.status, head.body) == (got.status, b"")
    if got.status == 200:
        assert head.value("Content-Length") == str(len(got.body))
        assert head.value("Content-Type") == got.value("Content-Type")


def test_a_password(front):
    """W-8, 7.4: stored once, whole; the second time is a conflict."""
    target = "/openstack/latest/password"
    assert call(front, target=target, **PLACE).body == b""
    assert call(front, "POST", target, body=b"encrypted" * 20, **PLACE).status == 200
    assert call(front, target=target, **PLACE).body == b"encrypted" * 20
    assert call(front, "POST", target, body=b"another", **PLACE).status == 409


def test_methods_and_limits(front):
    """W-6, W-9."""
    assert call(front, "TRACE", "/", **PLACE).status == 405
    assert call(front, target="/" + "a" * 9000, **PLACE).status == 414
    assert call(front, target="/", headers=[("X-Big", "x" * 40_000)], **PLACE).status == 431
    assert call(front, "POST", "/openstack/latest/password", body=b"x" * 70_000, **PLACE).status in (400, 413)


@pytest.mark.parametrize("pipeline", ["proxy", "combined"])
def test_the_next_hop_is_away(cloud, pipeline):
    reply = call(cloud.app(pipeline), target="/latest/", **PLACE)
    assert (reply.status, reply.value("Retry-After")) == (503, "1")
    assert str(cloud.folder).encode() not in reply.body


def test_nova_is_away_behind_the_agent(cloud):
    """The words and the request id of the agent reach the guest."""
    cloud.serve("metadata_proxy", server(cloud.app("agent")))
    reply = call(cloud.app("proxy"), target="/latest/", **PLACE)
    assert (reply.status, reply.value("Retry-After")) == (503, "1")
    assert reply.value("X-Openstack-Request-Id").encode() in reply.body


def test_nova_is_slow(cloud):
    edit(
        cloud.ini,
        (
            "nova_metadata_host = unix",
            "nova_timeout = 0.2\nnova_total_timeout = 0.2\nnova_metadata_host = unix",
        ),
    )
    cloud.serve("nova", silent)
    assert call(cloud.app("combined"), target="/latest/", **PLACE).status == 504


def test_nova_has_another_secret(cloud):
    """403 for the guest, ERROR for the operator."""
    cloud.serve("nova", server(cloud.app("nova")))
    (cloud.folder / "shared-secret").write_text("another secret\n")
    assert call(cloud.app("combined"), target="/latest/", **PLACE).status == 403


def test_a_rotation(cloud):
    """S-3: Nova has the old secret still; then both; then the new one."""
    nova = cloud.app("nova")
    (cloud.folder / "shared-secret").write_text("the new secret\na secret of the test\n")
    cloud.serve("nova", server(nova))
    combined = cloud.app("combined")
    assert call(combined, target="/latest/meta-data/hostname", **PLACE).status == 200
    assert call(combined, "POST", "/openstack/latest/password", body=b"whole", **PLACE).status == 200
    assert call(combined, target="/openstack/latest/password", **PLACE).body == b"whole"


def x_headers(received):
    return {name.lower() for name, _ in received.headers if name.lower().startswith("x-")}


def test_what_the_agent_and_nova_get(cloud):
    """1.2, both columns, in one."""
    nova = cloud.serve("nova", server(cloud.app("nova")))
    agent = cloud.serve("metadata_proxy", server(cloud.app("agent")))
    assert call(cloud.app("proxy"), target="/latest/", headers=FORGED, **PLACE).status == 200
    (to_agent,), (to_nova,) = agent.requests, nova.requests
    assert to_agent.value("X-Neutron-Network-ID") == BLUE
    assert to_agent.value("X-Forwarded-For") == "10.0.0.5"
    assert x_headers(to_agent) == {"x-forwarded-for", "x-neutron-network-id", "x-openstack-request-id"}
    assert to_nova.value("X-Instance-ID") == ADA
    assert to_nova.value("X-Forwarded-For") == "10.0.0.5"
    proof = {"x-instance-id", "x-instance-id-signature", "x-tenant-id", "x-forwarded-for"}
    assert x_headers(to_nova) == {*proof, "x-openstack-request-id"}
    assert to_nova.value("Accept-Encoding") == "identity"
    assert b"victim" not in to_agent.head + to_nova.head
    assert GREEN.encode() not in to_agent.head + to_nova.head


def test_an_error_of_nova_discloses_nothing(cloud):
    words = b"Traceback: /usr/lib/nova-7 10.99.0.1"
    cloud.serve(
        "nova", lambda conversation: conversation.request() and conversation.send(response("500 X", words))
    )
    reply = call(cloud.app("combined"), target="/latest/", **PLACE)
    assert reply.status == 500
    assert b"nova" not in reply.body
