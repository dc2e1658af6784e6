"""Who asks is decided by the connection, or by a trusted relay, and by nothing a guest writes."""

import pytest

from .client import request
from .nova import Nova, Recorded
from .pipelines import (
    ADA,
    ADA_ON_GREEN,
    BEN,
    BLUE,
    CYD,
    GREEN,
    GREEN_PORT,
    GUESTS,
    STRANGER,
    Guest,
    relay_signature,
)
from .running import Running

_OWN = {"proxy": [("Host", "169.254.169.254")]}
_TO_NOVA = [("Host", "169.254.169.254"), ("Accept-Encoding", "identity")]


def _headers(request: Recorded) -> list[tuple[str, str]]:
    return sorted((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers)


def _exactly(running: Running, guest=ADA) -> list[tuple[str, str]]:
    return sorted([*_OWN.get(running.pipeline, _TO_NOVA), *running.expected(guest)])


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.address)
def test_w1_identity_headers_are_exactly_right(running: Running, nova: Nova, guest) -> None:
    """W-1, S-1: id, signature, tenant and address, each once, and nothing else."""
    reply = running.ask("/latest/meta-data/", guest=guest)
    assert reply.status == 200
    assert _headers(nova.only()) == _exactly(running, guest)


@pytest.mark.configurations("to-nova")
def test_r6_an_unknown_guest_is_not_found(running: Running, nova: Nova) -> None:
    """R-6, W-18: no instance, no request to Nova."""
    stranger = Guest(STRANGER, "", "")
    reply = running.ask(guest=stranger)
    assert reply.status == 404
    assert reply.header("Content-Type") == "text/plain; charset=UTF-8"
    assert nova.requests == []


@pytest.mark.configurations("combined")
def test_the_listener_decides_on_the_network(running: Running, nova: Nova) -> None:
    """One address on two networks: mode listener tells them apart by the listener."""
    if not running.traits.several_listeners:
        pytest.skip("one listener per process")
    green = next(listener for listener in running.listeners if listener.port == GREEN_PORT)
    with running.connect(ADA_ON_GREEN, green) as connection:
        connection.send(running.compose("/green"))
        assert connection.reply().status == 200
    assert _headers(nova.only()) == _exactly(running, ADA_ON_GREEN)


# --- forged by a guest ------------------------------------------------------------------

_VICTIM = {
    "X-Forwarded-For": BEN.address,
    "X-Neutron-Network-ID": GREEN,
    "X-Neutron-Router-ID": GREEN,
    "X-Quantum-Network-ID": GREEN,
    "X-Quantum-Router-ID": GREEN,
    "X-OVN-Network-ID": GREEN,
    "X-Instance-ID": BEN.instance,
    "X-Instance-ID-Signature": dict(BEN.to_nova())["X-Instance-ID-Signature"],
    "X-Tenant-ID": BEN.project,
    "X-Metadata-Provider": GREEN,
    "X-Metadata-Provider-Signature": "0" * 64,
    "X-Mdmw-Client-MAC": "fa:16:3e:5b:10:01",
    "X-Mdmw-Relay-Signature": "1:" + "0" * 64,
    "Forwarded": f"for={BEN.address}",
    "X-Real-IP": BEN.address,
    "X-Forwarded-Host": "victim",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "443",
    "X-Forwarded-Prefix": "/x",
    "X-Auth-Token": "t",
    "X-Service-Token": "t",
    "X-Identity-Status": "Confirmed",
    "X-User-ID": "u",
    "X-Project-ID": BEN.project,
    "X-Roles": "admin",
    "X-Role": "admin",
    "Remote-Addr": BEN.address,
    "Script-Name": "/x",
    "Path-Info": "/x",
    "Mdmw-Listener": f"port:{BLUE}",
    "X-Forwarded-Ssl": "on",
    "Client-IP": BEN.address,
    "True-Client-IP": BEN.address,
    "Proxy": "http://10.0.0.6:1",
    "Keep-Alive": "timeout=5",
    "TE": "trailers",
    "Upgrade": "websocket",
    "Proxy-Authorization": "Basic eDp5",
    "Proxy-Connection": "keep-alive",
}


def _spellings(name: str, value: str) -> list[list[tuple[str, str]]]:
    under = name.replace("-", "_")
    return [
        [(name, value)],
        [(name.lower(), value)],
        [(name.upper(), value)],
        [(under, value)],
        [(under.upper(), value)],
        [(name.replace("-", "_", 1), value)],
        [(name, value), (name, value)],
        [(name, value), (under, value)],
        [(name, f"{value}, {value}")],
        [(name, "")],
    ]


@pytest.mark.configurations("guest-facing")
@pytest.mark.parametrize("name", _VICTIM)
def test_w2_a_forged_header_changes_nothing(running: Running, nova: Nova, name: str) -> None:
    """W-2, W-4, W-5: in any spelling, any number of times, joined or empty."""
    for number, headers in enumerate(_spellings(name, _VICTIM[name])):
        nova.requests.clear()
        reply = running.ask(f"/forged/{number}", headers=headers)
        assert reply.status == 200, headers
        assert _headers(nova.only()) == _exactly(running), headers
        assert nova.only().target == f"/forged/{number}".encode(), headers


@pytest.mark.configurations("guest-facing")
@pytest.mark.parametrize(
    "connection",
    [
        "X-Forwarded-For",
        "close, X-Instance-ID, X-Instance-ID-Signature, X-Tenant-ID, X-Neutron-Network-ID",
        "close, Host, Content-Length, Accept-Encoding",
        "close, mdmw.source",
    ],
)
def test_w1_names_in_connection_take_nothing_away(running: Running, nova: Nova, connection: str) -> None:
    """W-1: what mdmw sets cannot be removed by listing it."""
    headers = [("Connection", connection), ("X-Forwarded-For", BEN.address)]
    assert running.ask(headers=headers).status == 200
    assert _headers(nova.only()) == _exactly(running)


@pytest.mark.configurations("guest-facing")
def test_w1_all_forgeries_at_once(running: Running, nova: Nova) -> None:
    """W-1, W-2: and the guest's own harmless headers are the only ones that pass."""
    forged = [*_VICTIM.items(), *((name.replace("-", "_"), value) for name, value in _VICTIM.items())]
    harmless = [("User-Agent", "curl/8"), ("Accept", "*/*"), ("If-None-Match", '"a"')]
    assert running.ask(headers=[*harmless, *forged[:50]]).status == 200
    assert _headers(nova.only()) == sorted([*_exactly(running), *harmless])


# --- written by a relay -----------------------------------------------------------------


@pytest.mark.configurations("agents")
@pytest.mark.parametrize("name", _VICTIM)
def test_w3_a_relay_that_contradicts_itself_gets_400(running: Running, nova: Nova, name: str) -> None:
    """W-3, spec 1.7: a second value of what identifies is refused, anything else changes nothing."""
    for number, headers in enumerate(_spellings(name, _VICTIM[name])):
        nova.requests.clear()
        reply = running.ask(f"/forged/{number}", headers=headers)
        if reply.status == 200:
            assert _headers(nova.only()) == _exactly(running), headers
        else:
            assert reply.status == 400, headers
            assert nova.requests == [], headers


@pytest.mark.configurations("agents")
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([("X-Forwarded-For", ADA.address)], id="no-scope"),
        pytest.param([("X-Neutron-Network-ID", BLUE)], id="no-address"),
        pytest.param([("X-Forwarded-For", ADA.address), ("X-Neutron-Network-ID", "blue")], id="no-uuid"),
        pytest.param([("X-Forwarded-For", "127.0.0.1"), ("X-Neutron-Network-ID", BLUE)], id="loopback"),
        pytest.param(
            [("X-Forwarded-For", "10.0.0.6, 10.0.0.5"), ("X-Neutron-Network-ID", BLUE)], id="address-list"
        ),
        pytest.param(
            [
                ("X-Forwarded-For", "10.0.0.5"),
                ("X-Forwarded-For", "10.0.0.6"),
                ("X-Neutron-Network-ID", BLUE),
            ],
            id="two-addresses",
        ),
        pytest.param([*ADA.to_agent(), ("X-Neutron-Router-ID", GREEN)], id="both-ids"),
        pytest.param([*ADA.to_agent(), ("X-Quantum-Network-ID", GREEN)], id="alias-differs"),
    ],
)
def test_w3_a_malformed_relay_request_is_refused(running: Running, nova: Nova, headers) -> None:
    """W-3, spec 1.3, 1.7: 400 in mdmw's words, and nothing reaches Nova."""
    fixed = [("Host", "169.254.169.254"), ("Connection", "close"), relay_signature(ADA, "GET", "/")]
    with running.connect() as connection:
        connection.send(request("GET", "/", [*fixed, *headers]))
        reply = connection.reply()
    assert reply.status == 400
    assert "req-" in (reply.header("X-Openstack-Request-Id") or "")
    assert nova.requests == []


@pytest.mark.configurations("agents")
def test_w2_a_relay_must_sign(running: Running, nova: Nova) -> None:
    """W-2: of this method, target and guest; on a unix socket its mode decides, save on granian."""
    if not running.is_signed:
        pytest.skip("no signature on a unix socket")
    fixed = [("Host", "x"), ("Connection", "close"), *ADA.to_agent()]
    wrong = [
        [],
        [("X-Mdmw-Relay-Signature", "1:" + "0" * 64)],
        [relay_signature(BEN, "GET", "/")],
        [relay_signature(ADA, "POST", "/")],
        [relay_signature(ADA, "GET", "/other")],
    ]
    for signature in wrong:
        with running.connect() as connection:
            connection.send(request("GET", "/", [*fixed, *signature]))
            assert connection.reply().status == 400, signature
    assert nova.requests == []


# --- where nobody knows who asks ---------------------------------------------------------


@pytest.mark.configurations("unidentified")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_w18_guests_cannot_come_over_a_unix_socket(running: Running, nova: Nova, method: str) -> None:
    """W-18: proxy and combined know a guest by its TCP address; without one it is 400, at once."""
    body = b"x" if method == "POST" else b""
    headers = CYD.to_agent()  # forged, of course
    reply = running.ask(method=method, headers=headers, body=body)
    assert reply.status == 400
    assert reply.header("Content-Type") == "text/plain; charset=UTF-8"
    assert (reply.body == b"") == (method == "HEAD")
    assert nova.requests == []
