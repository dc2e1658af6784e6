"""agent-forward: the hop between proxy and agent (spec 1.1, 1.2, 1.6, 1.7)."""

import time

import pytest
from forwarding import NETWORK, agent, close_kept, free_slots
from guest import Seen, call
from hypothesis import given
from hypothesis import strategies as st
from peers import answers, echo, hang_up, once, reset, response, silent

from mdmw.errors import ConfigError
from mdmw.filters import agent_forward, source_identify
from mdmw.records import SOURCE, Scope, Source

PLAIN = "Content-Type: text/plain"
SOURCED = {SOURCE: Source("10.0.0.5", Scope("network", NETWORK))}
ROUTED = {SOURCE: Source("fe80::1:2:3:4", Scope("router", NETWORK), "52:54:00:de:5b:bf")}
OK = answers(response("200 OK", b"x", PLAIN))


def ask(app, *args, **kwargs):
    return call(app, *args, **(SOURCED | kwargs))


def test_what_the_agent_gets(peers, forward):
    """1.2, column H2: identity once and ours, the rest by an allow-list; a dummy Host."""
    peer = peers.unix(OK)
    guest = [
        *[("User-Agent", "curl"), ("Accept", "*/*"), ("If-None-Match", "1"), ("Accept-Encoding", "gzip")],
        *[("X-aws-ec2-metadata-token", "t"), ("X-aws-ec2-metadata-token-ttl-seconds", "60")],
        *[
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Neutron-Network-ID", "forged"),
            ("X_Neutron_Router_ID", "forged"),
        ],
        *[("X-Instance-ID", "forged"), ("X-Quantum-Network-ID", "forged"), ("X-OVN-Network-ID", "forged")],
        *[("X-Mdmw-Client-MAC", "forged"), ("Cookie", "c"), ("Connection", "close, X-Neutron-Network-ID")],
        *[
            ("Host", "guest"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("Proxy-Authorization", "p"),
            ("Range", "r"),
        ],
    ]
    ask(forward(agent, peer), headers=guest)
    assert peer.requests[0].headers == [
        ("Host", "169.254.169.254"),
        *guest[:6],
        ("X-Forwarded-For", "10.0.0.5"),
        ("X-Neutron-Network-ID", NETWORK),
    ]


def test_a_router_and_a_mac(peers, forward):
    """1.7: the header of the other scope is not there at all."""
    peer = peers.unix(OK)
    ask(forward(agent, peer), **ROUTED)
    assert peer.requests[0].value("X-Neutron-Router-ID") == NETWORK
    assert peer.requests[0].values("X-Neutron-Network-ID") == []
    assert peer.requests[0].value("X-Mdmw-Client-MAC") == "52:54:00:de:5b:bf"


def test_legacy_headers(peers, forward):
    """1.2: the Quantum name in addition, when it is on."""
    peer = peers.unix(OK)
    ask(forward(agent, peer, legacy_headers="true"))
    ask(forward(agent, peer))
    assert [received.values("X-Quantum-Network-ID") for received in peer.requests] == [[NETWORK], []]


def test_a_body_and_a_target_byte_for_byte(peers, forward):
    """W-7, W-8."""
    peer = peers.unix(OK)
    ask(forward(agent, peer), "POST", "/a%3Fb/../c?d", body=b"\x00\xff" * 99)
    assert peer.requests[0].line == "POST /a%3Fb/../c?d HTTP/1.1"
    assert peer.requests[0].body == b"\x00\xff" * 99


@pytest.mark.parametrize(
    "status", ["200 OK", "204 No Content", "304 Not Modified", "400 Bad", "403 No", "404 None"]
)
@pytest.mark.parametrize(
    "more", ["X-Openstack-Request-Id: req-1", "Retry-After: 7", "Content-Encoding: gzip"]
)
def test_what_the_agent_says_comes_back(peers, forward, status, more):
    """Unchanged, with the request id of the agent."""
    body = b"" if status[:3] in ("204", "304") else b"\x1f\x8b body"
    head = f"HTTP/1.1 {status}\r\n{PLAIN}\r\n{more}\r\nServer: agent\r\n"
    framing = "" if status[:3] in ("204", "304") else f"Content-Length: {len(body)}\r\n"
    app = forward(agent, peers.unix(answers(f"{head}{framing}\r\n".encode() + body)))
    reply = ask(app, validate=bool(framing))  # it dislikes the Content-Type of a 304
    assert (reply.line, reply.body) == (status, body)
    name, value = more.split(": ")
    assert reply.value(name) == value
    assert reply.value("Server") is None


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_errors_of_the_agent_pass_with_their_bodies(peers, forward, status):
    """It is our own agent, whose bodies disclose nothing already."""
    peer = peers.unix(answers(response(f"{status} X", b"its words", PLAIN, "Retry-After: 1")))
    reply = ask(forward(agent, peer))
    assert (reply.status, reply.body, reply.value("Retry-After")) == (status, b"its words", "1")


@pytest.mark.parametrize("where", ["absent", "refusing"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_agent_is_away(peers, forward, where, method):
    """1.6: 503 + Retry-After: 1."""
    more = {"relay_shared_secret": "k"} if where == "refusing" else {}
    reply = ask(forward(agent, getattr(peers, where)(), **more), method)
    assert (reply.status, reply.value("Retry-After")) == (503, "1")


@pytest.mark.parametrize("script", [hang_up, reset, once(b"HTTP/1.1 200 OK\r\nContent-Le")])
@pytest.mark.parametrize(("method", "status"), [("GET", 503), ("HEAD", 503), ("POST", 502)])
def test_the_agent_dies_in_the_middle(peers, forward, script, method, status):
    """On purpose: 503 + Retry-After for GET and HEAD, since cloud-init gives up for good on 502;
    502 only where the outcome is unknown."""
    app = forward(agent, peers.unix(script))
    reply = ask(app, method)
    assert (reply.status, reply.value("Retry-After")) == (status, "1" if status == 503 else None)
    assert free_slots(app) == 128


def test_the_agent_is_slow(peers, forward):
    app = forward(agent, peers.unix(silent), agent_timeout="0.2", agent_total_timeout="0.2")
    began = time.monotonic()
    assert ask(app).status == 504
    assert time.monotonic() - began < 2


def test_the_next_agent_of_several(peers, forward):
    living = peers.tcp(OK)
    app = forward(agent, peers.absent(), living, relay_shared_secret="k")
    assert ask(app).body == b"x"


def test_without_a_source():
    seen = Seen()
    assert call(agent_forward.app_factory({}, metadata_proxy_socket="/no")).status == 500
    app = agent_forward.filter_factory({}, metadata_proxy_socket="/no")(seen)
    assert call(app).body == b"seen"
    assert call(app, **SOURCED).status == 503


def test_the_socket_of_neutron(peers):
    peer = peers.unix(OK)
    app = agent_forward.app_factory({}, metadata_proxy_socket=peer.address.path)
    assert ask(app).body == b"x"
    close_kept(app)


# --- TCP --------------------------------------------------------------------------------


def over_tcp(received, method, target, options):
    """The source that an agent finds in what the proxy sent it."""
    seen = Seen()
    identify = source_identify.filter_factory({}, mode="relay", **options)(seen)
    headers = [(name, value) for name, value in received.headers if name != "Content-Length"]
    reply = call(identify, method, target, headers, peer="192.0.2.1")
    return seen.last[SOURCE] if reply.status == 200 else None


@pytest.mark.parametrize("source", [SOURCED[SOURCE], ROUTED[SOURCE]])
@pytest.mark.parametrize("legacy", ["false", "true"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_tcp_agent_believes_what_is_signed(peers, forward, source, legacy, method):
    """The hop of our own: what agent-forward signs, source-identify accepts, with rotated keys too."""
    peer = peers.tcp(OK)
    app = forward(agent, peer, relay_shared_secret="new\nold", legacy_headers=legacy)
    ask(app, method, "/a%2Fb?c", **{SOURCE: source})
    (received,) = peer.requests
    known = {"relay_peers": "192.0.2.0/24"}
    assert over_tcp(received, method, "/a%2Fb?c", known | {"relay_shared_secret": "new"}) == source
    assert over_tcp(received, method, "/a%2Fb?c", known | {"relay_shared_secret": "x\nnew"}) == source
    assert over_tcp(received, method, "/a%2Fb?c", known | {"relay_shared_secret": "old"}) is None
    assert over_tcp(received, method, "/a/b?c", known | {"relay_shared_secret": "new"}) is None


@given(st.text("abc%/?&=.~\xe9", max_size=20), st.sampled_from(["GET", "HEAD", "PUT"]))
def test_any_target_can_be_signed(rest, method):
    from mdmw.filters.agent_forward import _signature
    from mdmw.signing import Signer
    from mdmw.wire import source_headers

    target = "/" + rest
    name, value = _signature(Signer(["k"]), method, target, SOURCED[SOURCE])

    class Received:
        headers = [*source_headers(SOURCED[SOURCE]), (name, value)]

    options = {"relay_peers": "192.0.2.1", "relay_shared_secret": "k"}
    assert over_tcp(Received, method, target, options) == SOURCED[SOURCE]


# --- configuration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"metadata_proxy_socket": "relative"}, ["'metadata_proxy_socket'", "absolute"]),
        ({"metadata_proxy_socket": "/" + "x" * 200}, ["'metadata_proxy_socket'", "107"]),
        ({"agent_address": "10.0.0.1"}, ["'agent_address'", "'10.0.0.1'", "allowed"]),
        ({"agent_address": "10.0.0.1:80"}, ["'relay_shared_secret'", "shared key"]),
        ({"agent_address": "unix:/a,10.0.0.1:80"}, ["'relay_shared_secret'", "shared key"]),
        ({"agent_address": "10.0.0.1:80", "relay_shared_secret": ""}, ["'relay_shared_secret'"]),
        ({"agent_address": "http://a", "relay_shared_secret": "hunter2"}, ["'agent_address'", "'http://a'"]),
        ({"relay_shared_secret_file": "/no/file"}, ["'relay_shared_secret_file'", "/no/file"]),
        ({"agent_timeout": "31"}, ["'agent_timeout'", "31", "agent_total_timeout"]),
        ({"legacy_headers": "perhaps"}, ["'legacy_headers'", "perhaps"]),
        ({"metadata_proxy_sockets": "/x"}, ["unknown option 'metadata_proxy_sockets'"]),
    ],
)
@pytest.mark.parametrize("factory", [agent_forward.app_factory, agent_forward.filter_factory])
def test_bad_configuration(options, named, factory):
    with pytest.raises(ConfigError) as error:
        factory({}, **options)
    text = str(error.value)
    assert "\n" not in text
    assert "hunter2" not in text
    assert [name for name in named if name not in text] == []


def test_the_total_timeouts_nest():
    """1.6: the agent's is shorter than the proxy's, so that the guest reads the agent's words."""
    from mdmw.filters import nova_forward

    def default(module, name):
        return next(opt.default for opt in module.OPTIONS if opt.dest == name)

    assert default(nova_forward, "nova_total_timeout") < default(agent_forward, "agent_timeout")
    assert default(nova_forward, "nova_timeout") < 32


def test_many_requests_over_few_connections(peers, forward):
    """W-11."""
    peer = peers.unix(echo)
    app = forward(agent, peer)
    for _ in range(10):
        ask(app, validate=False)
    assert peer.connections == 1
