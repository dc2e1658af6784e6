"""One request id, and one trace, through all hops: believed from trusted hops, never from a guest."""

import time

import pytest
from forwarding import INSTANCE_ID, NETWORK, OTHER_PROOF, PROOF, PROVEN, agent, nova
from guest import Seen, call
from observed import Kept, observed
from peers import answers, response

from mdmw import wire
from mdmw.filters import hmac_verify, source_identify
from mdmw.observe.journal import TraceContext, journal_of
from mdmw.records import PROOFS, SOURCE, Scope, Source
from mdmw.signing import Signer

ID = "req-8b104bb5-b103-4d3f-bf5f-7bbfc06ea7cf"
TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
CLAIMED = [("X-Openstack-Request-Id", ID), ("traceparent", str(TRACE)), ("tracestate", "vendor=1")]
KEYS = ("HTTP_X_OPENSTACK_REQUEST_ID", "HTTP_TRACEPARENT", "HTTP_TRACESTATE")
ADA = Source("10.0.0.5", Scope("network", NETWORK))
BY_PROXY = wire.source_headers(ADA)
SECRET = {"relay_shared_secret": "of the relay"}
PLAIN = "Content-Type: text/plain"


def ask(app, *args, **kwargs):
    """The reply, and the journal of the request."""
    kept = Kept()
    reply = call(observed(app, kept), *args, **kwargs)
    return reply, kept.journals[-1]


def signature(source=ADA):
    timestamp = str(int(time.time()))
    message = wire.relay_message(timestamp, "GET", "/", wire.source_headers(source))
    return "X-Mdmw-Relay-Signature", f"{timestamp}:{Signer(['of the relay']).sign(message)}"


def relay(headers, peer="", **options):
    """The journal of a request to the agent; what claims an id is gone behind source-identify."""
    seen = Seen()
    app = source_identify.filter_factory({}, mode="relay", **options)(seen)
    reply, journal = ask(app, headers=[*BY_PROXY, *headers], peer=peer)
    assert reply.status == 200
    assert not set(KEYS) & set(seen.last)
    assert reply.values("X-Openstack-Request-Id") == [journal.request_id]
    return journal


def test_what_a_guest_claims_counts_for_nothing():
    seen = Seen()
    app = source_identify.filter_factory({}, mode="fixed", network_id=NETWORK)(seen)
    _, journal = ask(app, headers=CLAIMED)
    assert journal.request_id != ID
    assert journal.trace is None
    assert not set(KEYS) & set(seen.last)
    assert not journal.notes  # it is no forged identity: instrumented programs do so in good faith


def test_a_proxy_that_signs_is_believed():
    journal = relay([*CLAIMED, signature()], **SECRET)
    assert (journal.request_id, journal.trace) == (ID, TRACE)


def test_a_proxy_over_tcp_is_believed_since_it_must_sign():
    journal = relay([*CLAIMED, signature()], peer="192.0.2.7", relay_peers="192.0.2.7", **SECRET)
    assert journal.request_id == ID


def test_a_proxy_on_the_unix_socket_may_be_haproxy_and_is_not():
    """It would pass on what a guest claims."""
    journal = relay(CLAIMED)
    assert journal.request_id != ID
    assert journal.trace is None


def test_unless_the_operator_says_that_all_are_mdmws():
    journal = relay(CLAIMED, trust_client_mac="true")
    assert (journal.request_id, journal.trace) == (ID, TRACE)


def test_a_signature_that_does_not_fit_is_refused_and_its_id_too():
    """The error is logged under an id of ours."""
    app = source_identify.filter_factory({}, mode="relay", **SECRET)(Seen())
    wrong = ("X-Mdmw-Relay-Signature", f"{int(time.time())}:{'0' * 64}")
    reply, journal = ask(app, headers=[*BY_PROXY, *CLAIMED, wrong], peer="")
    assert (reply.status, journal.error) == (400, "Contradiction")
    assert journal.request_id != ID
    assert journal.trace is None


@pytest.mark.parametrize(
    "value", ["req-1", ID.upper(), f"{ID} ", f"{ID},{ID}", ID.removeprefix("req-"), "", f"{ID}\t"]
)
def test_an_id_that_is_none_is_made_anew(value):
    """Also from a trusted hop: a log line is split at spaces."""
    journal = relay([("X-Openstack-Request-Id", value)], trust_client_mac="true")
    assert wire.request_id(journal.request_id)
    assert journal.request_id != value


def test_a_traceparent_that_is_none_begins_no_trace():
    assert relay([("traceparent", "00-0-0-01")], trust_client_mac="true").trace is None


def verified(target, secret="secret"):
    """The journal of a request to what stands where Nova stands."""
    proof = [
        *[("X-Instance-ID", INSTANCE_ID), ("X-Tenant-ID", "project"), ("X-Forwarded-For", "10.0.0.5")],
        ("X-Instance-ID-Signature", Signer([secret]).sign(INSTANCE_ID.encode())),
    ]
    app = hmac_verify.filter_factory({}, metadata_proxy_shared_secret="secret")(Seen())
    return ask(app, target=target, headers=[*proof, *CLAIMED])[1]


def test_who_proves_an_instance_is_believed():
    journal = verified("/latest/")
    assert (journal.request_id, journal.trace, journal.peer) == (ID, TRACE, "10.0.0.5")


@pytest.mark.parametrize(("target", "secret"), [("/", "secret"), ("/latest/", "wrong")])
def test_who_proves_nothing_is_not(target, secret):
    """The root passes unverified, as in Nova."""
    assert verified(target, secret).request_id != ID


# --- to the next hop --------------------------------------------------------------------


def with_trace(app):
    """The application, in a trace."""

    def traced(environ, start_response):
        journal_of(environ).trace = TRACE
        return app(environ, start_response)

    return traced


def test_the_agent_gets_the_id_and_the_trace(peers, forward):
    peer = peers.unix(answers(response("200 OK", b"x", PLAIN)))
    reply, journal = ask(with_trace(forward(agent, peer)), **{SOURCE: ADA}, headers=CLAIMED)
    assert peer.requests[0].value("X-Openstack-Request-Id") == journal.request_id != ID
    assert peer.requests[0].value("traceparent") == str(TRACE)
    assert peer.requests[0].value("tracestate") is None
    assert reply.value("X-Openstack-Request-Id") == journal.request_id


def test_nova_gets_them_with_every_proof(peers, forward):
    """W-1: all else is by the allow-list."""
    peer = peers.unix(answers(response("403 Forbidden"), response("200 OK", b"x", PLAIN)))
    app = with_trace(forward(nova, peer))
    reply, journal = ask(app, headers=CLAIMED, **(PROVEN | {PROOFS: (PROOF, OTHER_PROOF)}))
    told = [(one.value("X-Openstack-Request-Id"), one.value("traceparent")) for one in peer.requests]
    assert told == [(journal.request_id, str(TRACE))] * 2
    assert reply.values("X-Openstack-Request-Id") == [journal.request_id]


def test_without_an_observer_nothing_is_added(peers, forward):
    peer = peers.unix(answers(response("200 OK", b"x", PLAIN)))
    call(forward(agent, peer), **{SOURCE: ADA}, headers=CLAIMED)
    assert [peer.requests[0].value(name) for name, _ in CLAIMED] == [None] * 3


def test_an_agent_that_does_not_trust_has_its_own_id_which_then_counts(peers, forward):
    """So the guest, the log of the proxy and the log of the agent have the same one."""
    peer = peers.unix(answers(response("200 OK", b"x", PLAIN, f"x-openstack-request-id: {ID}")))
    reply, journal = ask(forward(agent, peer), **{SOURCE: ADA})
    assert journal.request_id == ID
    assert reply.values("X-Openstack-Request-Id") == [ID]


def test_an_agent_that_says_nonsense_changes_nothing(peers, forward):
    """It passes, since the answer is the agent's, but it is no id for our log."""
    peer = peers.unix(answers(response("200 OK", b"x", PLAIN, "X-Openstack-Request-Id: a b\tc")))
    _, journal = ask(forward(agent, peer), **{SOURCE: ADA})
    assert wire.request_id(journal.request_id)


def test_nova_has_no_say(peers, forward):
    """W-12: its id is not among the headers that pass."""
    peer = peers.unix(answers(response("200 OK", b"x", PLAIN, f"X-Openstack-Request-Id: {ID}")))
    reply, journal = ask(forward(nova, peer), **PROVEN)
    assert reply.values("X-Openstack-Request-Id") == [journal.request_id]
    assert journal.request_id != ID
