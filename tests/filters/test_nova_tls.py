"""TLS to Nova through the whole agent, as Neutron's metadata_agent.ini configures it (spec 3.4, S-4)."""

import logging
import re
import shutil
import ssl
import warnings
from importlib import resources
from pathlib import Path

import pytest
from certificates import Authority
from forwarding import close_kept
from guest import call
from peers import answers, response

from mdmw.wsgi.pipelines import stages

ETC = Path(__file__).parents[2] / "etc"
BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
ASKED = [("X-Forwarded-For", "10.0.0.5"), ("X-Neutron-Network-ID", BLUE)]
FINE = answers(response("200 OK", b"fine", "Content-Type: text/plain"))


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"), "ca")


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """The authority that vouches for agents."""
    return Authority(tmp_path_factory.mktemp("clients"), "clients")


@pytest.fixture
def agent(tmp_path):
    """Makes the pipeline of mdmw-metadata-agent in front of a peer; more options are added to its file."""
    terminals = []

    def make(peer, **more):
        shutil.copy(ETC / "inventory.yaml", tmp_path)
        given = {
            "nova_metadata_protocol": "https",
            "nova_metadata_ip": "127.0.0.1",
            "nova_metadata_port": peer.address.port,
            "metadata_proxy_shared_secret": "s3cret",
            "resolver": "inventory",
            "inventory_file": tmp_path / "inventory.yaml",
        } | more
        file = tmp_path / "metadata_agent.ini"
        file.write_text("[DEFAULT]\n" + "".join(f"{name} = {value}\n" for name, value in given.items()))
        ini = str(resources.files("mdmw") / "etc" / "metadata-agent.ini")
        found = stages(ini, "agent", {"config_file": str(file), "resolver": "inventory"})
        *filters, app = [stage.create() for stage in found]
        terminals.append(app)
        for make_filter in reversed(filters):
            app = make_filter(app)
        return app

    yield make
    for terminal in terminals:
        close_kept(terminal)


def ask(app, method="GET", body=b""):
    return call(app, method, "/latest/meta-data/", headers=ASKED, body=body, peer="")


def test_mutual_tls(peers, agent, ca, clients):
    """nova_client_cert, nova_client_priv_key, auth_ca_cert: shown, verified, and the connection is kept."""
    peer = peers.tcp(FINE, tls=ca.server("127.0.0.1", clients=clients.file))
    cert, key = clients.issue("agent.example")
    app = agent(peer, auth_ca_cert=ca.file, nova_client_cert=cert, nova_client_priv_key=key)
    assert [ask(app).body for _ in range(3)] == [b"fine"] * 3
    assert ask(app, "POST", b"password").status == 200
    assert peer.requests[0].value("X-Instance-ID")
    assert peer.connections == 2  # a POST never goes over a kept one


def test_insecure_wins_over_the_ca(peers, agent, ca, clients):
    peer = peers.tcp(FINE, tls=ca.server("nova.example"))
    assert ask(agent(peer, auth_ca_cert=clients.file, nova_metadata_insecure=True)).status == 200


def old(context):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def only(version, context):
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    return context


BAD = {
    "wrong name": (lambda ca, _: ca.server("nova.example"), "IP address mismatch"),
    "expired": (lambda ca, _: ca.server("127.0.0.1", expired=True), "certificate has expired"),
    "untrusted": (lambda _, clients: clients.server("127.0.0.1"), "unable to get local issuer certificate"),
    "TLS 1.1 only": (lambda ca, _: old(ca.server("127.0.0.1")), "(?i)protocol"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_s_4_a_nova_that_is_not_to_be_trusted(peers, agent, ca, clients, caplog, kind, method):
    """S-4, 1.6: 503 and Retry-After for the guest, the reason in the log, nothing of the request sent."""
    make, reason = BAD[kind]
    peer = peers.tcp(FINE, tls=make(ca, clients))
    reply = ask(agent(peer, auth_ca_cert=ca.file), method, b"password" if method == "POST" else b"")
    assert (reply.status, reply.value("Retry-After")) == (503, "1")
    assert b"127.0.0.1" not in reply.body
    assert_said(caplog, f"no connection to https://127.0.0.1:{peer.address.port}", reason)
    assert peer.requests == []


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("shown", ["no certificate", "that of a stranger"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_certificate_that_nova_does_not_take(
    peers, agent, ca, clients, caplog, version, shown, method
):
    """With TLS 1.3 the client learns of it only when it waits for the answer."""
    peer = peers.tcp(FINE, tls=only(version, ca.server("127.0.0.1", clients=clients.file)))
    more = {}
    if shown != "no certificate":
        more["nova_client_cert"], more["nova_client_priv_key"] = ca.issue("agent.example")
    app = agent(peer, auth_ca_cert=ca.file, **more)
    reply = ask(app, method, b"password" if method == "POST" else b"")
    assert (reply.status, reply.value("Retry-After")) == (503, "1")
    assert_said(caplog, f"https://127.0.0.1:{peer.address.port}", "(?i)alert")
    assert peer.requests == []


def assert_said(caplog, place, reason):
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    joined = "\n".join(lines)
    assert place in joined
    assert re.search(reason, joined), joined
    assert "s3cret" not in joined
