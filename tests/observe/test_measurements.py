"""What the parts of a pipeline tell the metrics: claims of guests, failures, certificates, secrets."""

import os
from pathlib import Path

import pytest
from certificates import Authority
from cryptography import x509
from guest import Seen, call
from observed import Kept
from observed import observed as observing

from mdmw.boundary.stage import checks_of, measurements_of
from mdmw.errors import Unavailable
from mdmw.filters import hmac_sign, nova_forward, source_identify
from mdmw.observe.journal import FORGED, RESOLVER_CALL, RESOLVER_FAILURE, journal_of
from mdmw.observe.series import CERTIFICATE, SECRET, SLOTS
from mdmw.records import Scope, Source
from mdmw.resolvers.back_end import BackEnd

NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"


def observed(app):
    kept = Kept()
    return observing(app, kept), kept


# --- claims -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "number"),
    [
        ([], 0),
        ([("User-Agent", "curl"), ("Connection", "close, TE"), ("TE", "trailers"), ("Keep-Alive", "5")], 0),
        ([("Proxy-Connection", "keep-alive"), ("Proxy", "http://x")], 0),
        ([("X-Instance-ID", "me"), ("x_tenant_id", "mine"), ("X-Forwarded-For", "10.0.0.9")], 3),
    ],
)
def test_w_1_claims_of_guests_are_counted_as_they_are_removed(headers, number):
    app, kept = observed(source_identify.filter_factory({}, mode="fixed", network_id=NETWORK)(Seen()))
    assert call(app, headers=headers, validate=False).status == 200
    assert kept.journals[0].notes.get(FORGED, 0) == number


def test_w_1_claims_in_a_request_that_is_refused_count_too():
    app, kept = observed(source_identify.filter_factory({}, mode="fixed", network_id=NETWORK)(Seen()))
    assert call(app, target="/a\\b", headers=[("X-Instance-ID", "me")], validate=False).status == 400
    assert kept.journals[0].notes[FORGED] == 1


def test_what_a_trusted_hop_says_is_no_claim():
    app, kept = observed(source_identify.filter_factory({}, mode="relay")(Seen()))
    headers = [("X-Forwarded-For", "10.0.0.5"), ("X-Neutron-Network-ID", NETWORK)]
    assert call(app, headers=headers, peer="").status == 200
    assert FORGED not in kept.journals[0].notes


# --- failures ---------------------------------------------------------------------------


class Down:
    """A resolver whose back end is away."""

    def resolve(self, source, *, fresh=False):
        raise Unavailable("it is away")


def test_a_question_without_an_answer_is_a_failure_and_in_the_pause_there_is_none():
    back_end = BackEnd(Down())

    def ask(environ, start_response):
        with pytest.raises(Unavailable):
            back_end.instance(Source("10.0.0.5", Scope("network", NETWORK)), journal_of(environ))
        return Seen()(environ, start_response)

    app, kept = observed(ask)
    call(app)
    call(app)
    assert kept.journals[0].notes == {RESOLVER_CALL: 1, RESOLVER_FAILURE: 1}
    assert kept.journals[1].notes == {}


# --- what is looked at ------------------------------------------------------------------


def measured(app):
    return {(series, labels): value for series, labels, value in measurements_of(app)}


def end(path):
    return x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc.timestamp()


def test_the_ends_of_certificates(tmp_path):
    """Of the client's chain the first, of several authorities the last one that ends."""
    authority, older = Authority(tmp_path, "nova"), Authority(tmp_path, "older")
    certificate, key = authority.issue("client")
    expired, _ = older.issue("gone", expired=True)
    both = tmp_path / "both.pem"
    both.write_text(Path(expired).read_text() + Path(authority.file).read_text())
    forward = nova_forward.app_factory(
        {},
        nova_metadata_host="127.0.0.1:1",
        nova_metadata_protocol="https",
        auth_ca_cert=str(both),
        nova_client_cert=certificate,
        nova_client_priv_key=key,
    )
    numbers = measured(forward)
    assert numbers[CERTIFICATE, ("nova_ca",)] == end(authority.file) > end(expired)
    assert numbers[CERTIFICATE, ("nova_client",)] == end(certificate)


def test_when_a_secret_was_written(tmp_path):
    path = tmp_path / "secret"
    path.write_text("secret\n")
    os.utime(path, (1_000_000, 1_234_567))
    sign = hmac_sign.filter_factory({}, metadata_proxy_shared_secret_file=str(path))(Seen())
    assert measured(sign)[SECRET, ("metadata_proxy_shared_secret",)] == 1_234_567


def test_an_upstream_has_its_name():
    forward = nova_forward.app_factory({}, nova_metadata_host="127.0.0.1:1", nova_max_connections="7")
    assert measured(forward)[SLOTS, ("nova",)] == 7


def test_stages_are_found_behind_filters_of_others():
    """Whatever name a filter has for the application behind it; both ways of a fork are found."""

    class Other:
        def __init__(self, app):
            self.application = app

    first = nova_forward.filter_factory({}, nova_metadata_host="127.0.0.1:1", nova_max_connections="3")
    last = nova_forward.app_factory({}, nova_metadata_host="127.0.0.1:1", nova_max_connections="4")
    slots = [value for kind, _, value in measurements_of(Other(first(Other(last)))) if kind is SLOTS]
    assert slots == [3, 4]
    assert list(checks_of(Other(first(Other(last))))) == ["upstream", "upstream.2"]
