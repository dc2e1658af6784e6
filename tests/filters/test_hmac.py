"""hmac-sign and hmac-verify: two halves of one thing (S-1, S-3; spec 3.2 and 3.3)."""

import hashlib
import hmac
import logging

import pytest
from guest import Seen, call
from hypothesis import given
from hypothesis import strategies as st

from mdmw import wire
from mdmw.errors import ConfigError
from mdmw.filters import hmac_sign, hmac_verify
from mdmw.records import INSTANCE, PROOFS, SOURCE, Instance, Scope, Source

NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
ID = "7c52af88-d14b-45ae-87cf-be154d8c8638"
SIGNATURE = "bde5e01d652f3950448053ea06854867e02f65a976868d8a0973984cfc52d6fa"  # S-1, of "secret"
SECRET = {"metadata_proxy_shared_secret": "secret"}
FOUND = {
    SOURCE: Source("10.0.0.5", Scope("network", NETWORK)),
    INSTANCE: Instance(ID, "project", "port"),
}
GOOD = [("X-Instance-ID", ID), ("X-Instance-ID-Signature", SIGNATURE), ("X-Tenant-ID", "project")]


def sign(environ, **options):
    """The proofs that hmac-sign leaves."""
    seen = Seen()
    assert call(hmac_sign.filter_factory({}, **(SECRET | options))(seen), **environ).status == 200
    return seen.last[PROOFS]


def verify(headers, target="/x", options=None, **more):
    """(status, environ of the next filter or None) of hmac-verify."""
    seen = Seen()
    app = hmac_verify.filter_factory({}, **(SECRET | (options or {})))(seen)
    status = call(app, target=target, headers=headers, **more).status
    assert (status == 200) == bool(seen.environs)
    return status, seen.environs[0] if seen.environs else None


# --- sign -------------------------------------------------------------------------------


def test_the_headers_of_an_instance():
    """1.2, column H4, with the vector of S-1."""
    assert sign(FOUND) == ((*GOOD, ("X-Forwarded-For", "10.0.0.5")),)


def test_one_proof_for_each_secret():
    """S-3."""
    proofs = sign(FOUND, metadata_proxy_shared_secret="secret\nother")
    assert proofs[0] == (*GOOD, ("X-Forwarded-For", "10.0.0.5"))
    expected = hmac.new(b"other", ID.encode(), hashlib.sha256).hexdigest()
    assert dict(proofs[1])["X-Instance-ID-Signature"] == expected


def test_the_id_is_used_verbatim():
    """3.1: no case folding, no change of dashes."""
    environ = FOUND | {INSTANCE: Instance(ID.upper(), "p", "q")}
    (proof,) = sign(environ)
    assert dict(proof)["X-Instance-ID"] == ID.upper()
    assert dict(proof)["X-Instance-ID-Signature"] != SIGNATURE


def test_what_is_remembered_is_the_signature_not_the_project_or_address():
    """The same instance through another port, from another address."""
    seen = Seen()
    app = hmac_sign.filter_factory({}, **SECRET)(seen)
    for project, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("a", "10.0.0.1")):
        call(
            app,
            **{SOURCE: Source(address, Scope("network", NETWORK)), INSTANCE: Instance(ID, project, "port")},
        )
        headers = dict(seen.last[PROOFS][0])
        assert (headers["X-Tenant-ID"], headers["X-Forwarded-For"]) == (project, address)


def test_provider_mode():
    """3.3: says which provider asks, and for which address; no instance is needed."""
    (proof,) = sign({SOURCE: FOUND[SOURCE]}, identify_mode="provider", metadata_provider_id="nsx-1")
    expected = hmac.new(b"secret", b"nsx-1", hashlib.sha256).hexdigest()
    assert proof == (
        ("X-Metadata-Provider", "nsx-1"),
        ("X-Metadata-Provider-Signature", expected),
        ("X-Forwarded-For", "10.0.0.5"),
    )


@pytest.mark.parametrize("environ", [{}, {SOURCE: FOUND[SOURCE]}, {INSTANCE: FOUND[INSTANCE]}])
def test_nothing_is_signed_without_a_record(environ):
    seen = Seen()
    assert call(hmac_sign.filter_factory({}, **SECRET)(seen), **environ).status == 500
    assert seen.environs == []
    provider = hmac_sign.filter_factory({}, **SECRET, identify_mode="provider", metadata_provider_id="x")(
        seen
    )
    assert call(provider).status == 500


def test_a_guest_cannot_sign():
    """Headers are not looked at."""
    seen = Seen()
    call(hmac_sign.filter_factory({}, **SECRET)(seen), headers=[("X-Instance-ID", "victim")], **FOUND)
    assert dict(seen.last[PROOFS][0])["X-Instance-ID"] == ID


# --- verify: 3.2, in its order ----------------------------------------------------------


def test_a_good_signature():
    status, environ = verify([*GOOD, ("X-Forwarded-For", "10.0.0.5")], peer="192.0.2.1")
    assert status == 200
    assert environ[INSTANCE] == Instance(ID, "project", "")
    assert environ["REMOTE_ADDR"] == "10.0.0.5"
    assert not [key for key in environ if key.startswith("HTTP_X")]


@pytest.mark.parametrize(
    "target", ["/", "//", "/.", "/./", "/x/..", "///", "/?a=b", "", "/%2e", "/a/%2e%2e/"]
)
def test_the_root_passes_without_any_check(target):
    """3.2, 1: the EC2 version list."""
    for headers in ([], [("X-Instance-ID", "forged")], [("X-Metadata-Provider", "forged")]):
        status, environ = verify(headers, target or "/")
        assert status == 200
        assert INSTANCE not in environ
        assert SOURCE not in environ
        assert not [key for key in environ if key.startswith("HTTP_X")]


@pytest.mark.parametrize(
    "target", ["/x", "/openstack", "/latest/meta-data/", "/..a", "/%2f", "/x/../y", "/\xe9"]
)
def test_everything_else_is_checked(target):
    assert verify([], target)[0] == (200 if target == "/%2f" else 400)


@pytest.mark.parametrize("missing", ["X-Instance-ID", "X-Instance-ID-Signature", "X-Tenant-ID"])
@pytest.mark.parametrize("value", [None, "", " "])
def test_a_missing_header(missing, value, caplog):
    """3.2, 3: 400, before the signature is looked at; the log names it."""
    headers = [(name, "wrong" if name.endswith("Signature") else v) for name, v in GOOD if name != missing]
    headers += [] if value is None else [(missing, value)]
    with caplog.at_level(logging.INFO):
        assert verify(headers)[0] == 400
    assert f"{missing} is missing" in caplog.text


@pytest.mark.parametrize(
    "signature",
    [
        *["0" * 64, "x", SIGNATURE[:-1], SIGNATURE + "0", SIGNATURE.upper(), f"0x{SIGNATURE}", "\xe9" * 64],
        hmac.new(b"secret", b"project", hashlib.sha256).hexdigest(),
        hmac.new(b"", ID.encode(), hashlib.sha256).hexdigest(),
    ],
)
def test_a_wrong_signature(signature, caplog):
    """3.2, 4: 403; in the log neither the one that came nor the one expected."""
    with caplog.at_level(logging.DEBUG):
        assert verify([GOOD[0], ("X-Instance-ID-Signature", signature), GOOD[2]])[0] == 403
    assert SIGNATURE not in caplog.text
    assert ID in caplog.text


def test_a_signature_of_another_instance():
    assert verify([("X-Instance-ID", ID[:-1] + "9"), *GOOD[1:]])[0] == 403
    assert verify([("X-Instance-ID", ID.upper()), *GOOD[1:]])[0] == 403


@pytest.mark.parametrize("name", ["X-Instance-ID", "X-Instance-ID-Signature", "X-Tenant-ID"])
def test_several_values(name):
    """W-3, also when a server has joined them."""
    headers = [*GOOD, ("X-Forwarded-For", "10.0.0.5")]
    assert verify([*headers, (name, "10.0.0.6")])[0] == 400
    assert verify([*headers, (name.replace("-", "_"), "")])[0] == 400


def test_an_address_that_is_none():
    assert verify([*GOOD, ("X-Forwarded-For", "unknown")])[0] == 400
    assert verify(GOOD, peer="192.0.2.1")[1]["REMOTE_ADDR"] == "192.0.2.1"


def test_any_of_the_secrets():
    """S-3."""
    options = {"metadata_proxy_shared_secret": "new\nsecret"}
    assert verify(GOOD, options=options)[0] == 200
    assert verify(GOOD, options={"metadata_proxy_shared_secret": "new"})[0] == 403


def test_records_of_others_do_not_count():
    """What an outer filter, or nobody, has left there."""
    forged = {INSTANCE: Instance("victim", "v", "v"), SOURCE: FOUND[SOURCE]}
    status, environ = verify([], "/", **forged)
    assert status == 200
    assert INSTANCE not in environ
    assert SOURCE not in environ
    assert verify([], "/x", **forged)[0] == 400


def test_requests_that_are_refused_here():
    """W-6, W-7, W-9."""
    assert verify(GOOD, method="TRACE")[0] == 405
    assert verify(GOOD, "/" + "a" * 9000)[0] == 414
    assert verify([*GOOD, ("X-Big", "x" * 40_000)])[0] == 431


def test_an_environ_with_holes():
    from guest import send

    app = hmac_verify.filter_factory({}, **SECRET)(Seen())
    for made in ({}, {"REQUEST_METHOD": "GET"}, {"REQUEST_METHOD": "", "RAW_URI": "/"}):
        assert send(app, dict(made), validate=False).status == 400


# --- verify: 3.3 ------------------------------------------------------------------------

PROVIDERS = {"providers": f"nsx-1:{NETWORK}"}
PROVIDER = [
    ("X-Metadata-Provider", "nsx-1"),
    ("X-Metadata-Provider-Signature", hmac.new(b"secret", b"nsx-1", hashlib.sha256).hexdigest()),
]


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("10.0.0.5, 192.0.2.7", "10.0.0.5"),
        ("10.0.0.5,192.0.2.7,192.0.2.8", "10.0.0.5"),
        ("2001:db8::5, 10.0.0.9", "2001:db8::5"),
        (" 10.0.0.5 ", "10.0.0.5"),
        ("::ffff:10.0.0.5, unknown", "10.0.0.5"),
    ],
)
def test_the_address_of_a_signed_request_is_the_first(forwarded, address):
    """3.2: Nova accepts a list; hops behind the agent may add to it."""
    status, environ = verify([*GOOD, ("X-Forwarded-For", forwarded)])
    assert status == 200
    assert environ["REMOTE_ADDR"] == address


@pytest.mark.parametrize("forwarded", ["10.0.0.5", "10.0.0.5, 192.0.2.1", " 10.0.0.5 ,x", "::ffff:10.0.0.5"])
def test_a_provider_and_an_address(forwarded):
    """Only the first element of X-Forwarded-For counts."""
    status, environ = verify([*PROVIDER, ("X-Forwarded-For", forwarded)], options=PROVIDERS)
    assert status == 200
    assert environ[SOURCE] == Source("10.0.0.5", Scope("network", NETWORK))
    assert INSTANCE not in environ
    assert not [key for key in environ if key.startswith("HTTP_X")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (PROVIDER, 400),
        ([*PROVIDER, ("X-Forwarded-For", "")], 400),
        ([*PROVIDER, ("X-Forwarded-For", "unknown")], 400),
        ([PROVIDER[0], ("X-Forwarded-For", "10.0.0.5")], 403),
        ([PROVIDER[0], ("X-Metadata-Provider-Signature", "0" * 64), ("X-Forwarded-For", "10.0.0.5")], 403),
        ([("X-Metadata-Provider", "nsx-2"), PROVIDER[1], ("X-Forwarded-For", "10.0.0.5")], 403),
        ([*GOOD, ("X-Metadata-Provider", "nsx-1"), ("X-Forwarded-For", "10.0.0.5")], 403),
        ([PROVIDER[0], *PROVIDER, ("X-Forwarded-For", "10.0.0.5")], 400),
    ],
)
def test_providers_that_are_refused(headers, status):
    """The header switches the mode, so that a good instance signature does not help."""
    assert verify(headers, options=PROVIDERS)[0] == status


def test_a_provider_that_nobody_configured():
    assert verify([*PROVIDER, ("X-Forwarded-For", "10.0.0.5")])[0] == 400


# --- there and back ---------------------------------------------------------------------

SECRETS = st.text(st.characters(codec="latin-1", exclude_categories=["Cc", "Zs"]), min_size=1, max_size=30)
# What can be in a header: Latin-1 without control characters, separators and commas.
WORDS = st.text(
    st.characters(codec="latin-1", exclude_categories=["Cc", "Zs"], exclude_characters=","),
    min_size=1,
    max_size=40,
)
ADDRESSES = st.ip_addresses(network="10.0.0.0/8").map(str) | st.ip_addresses(network="2001:db8::/32").map(str)


@given(st.uuids().map(str) | WORDS, WORDS, ADDRESSES, st.lists(SECRETS, min_size=1, max_size=3), st.data())
def test_what_is_signed_verifies(instance_id, project_id, address, secrets, data):
    """Whichever of the proofs is tried, and whichever secret the other side has."""
    environ = {
        SOURCE: Source(address, Scope("network", NETWORK)),
        INSTANCE: Instance(instance_id, project_id, "port"),
    }
    proofs = sign(environ, metadata_proxy_shared_secret="\n".join(secrets))
    number = data.draw(st.integers(0, len(secrets) - 1))
    status, seen = verify(proofs[number], options={"metadata_proxy_shared_secret": secrets[number]})
    assert status == 200
    assert seen[INSTANCE] == Instance(instance_id, project_id, "")
    assert seen["REMOTE_ADDR"] == address
    headers = dict(proofs[number]) | {"X-Instance-ID": instance_id + "x"}
    assert verify(headers.items())[0] == 403


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=30), ADDRESSES, SECRETS)
def test_what_a_provider_signs_verifies(provider_id, address, secret):
    options = {"metadata_proxy_shared_secret": secret}
    mode = {"identify_mode": "provider", "metadata_provider_id": provider_id}
    (proof,) = sign({SOURCE: Source(address, Scope("network", NETWORK))}, **options, **mode)
    status, seen = verify(proof, options=options | {"providers": f"{provider_id}:{NETWORK}"})
    assert status == 200
    assert seen[SOURCE] == Source(address, Scope("network", NETWORK))


# --- configuration ----------------------------------------------------------------------


@pytest.mark.parametrize("factory", [hmac_sign.filter_factory, hmac_verify.filter_factory])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, ["'metadata_proxy_shared_secret'", "required", "require_secret = false"]),
        ({"metadata_proxy_shared_secret": ""}, ["'metadata_proxy_shared_secret'", "required"]),
        ({"metadata_proxy_shared_secret_file": "/no/file"}, ["_file'", "/no/file"]),
        (
            {"metadata_proxy_shared_secret": "hunter2", "metadata_proxy_shared_secret_file": "/x"},
            ["one of the two"],
        ),
        ({"metadata_proxy_shared_secret": "hunter2", "colour": "x"}, ["unknown option 'colour'"]),
        ({"config_file": "/no/agent.ini"}, ["/no/agent.ini"]),
    ],
)
def test_bad_configuration(factory, options, named):
    with pytest.raises(ConfigError) as error:
        factory({}, **options)
    text = str(error.value)
    assert "\n" not in text
    assert "hunter2" not in text
    assert [name for name in named if name not in text] == []


@pytest.mark.parametrize(
    ("factory", "options", "named"),
    [
        (hmac_sign.filter_factory, {"identify_mode": "guess"}, ["'identify_mode'", "'guess'", "provider"]),
        (hmac_sign.filter_factory, {"identify_mode": "provider"}, ["'metadata_provider_id'"]),
        (hmac_sign.filter_factory, {"metadata_provider_id": "x"}, ["'metadata_provider_id'", "instance"]),
        (hmac_verify.filter_factory, {"providers": "x"}, ["'providers'", "x"]),
        (hmac_verify.filter_factory, {"providers": "x:y"}, ["'providers'", "'y' is not a UUID"]),
        (hmac_verify.filter_factory, {"max_target": "1"}, ["'max_target'", "256"]),
    ],
)
def test_options_of_one_of_them(factory, options, named):
    with pytest.raises(ConfigError) as error:
        factory({}, **SECRET, **options)
    assert [name for name in named if name not in str(error.value)] == []


def test_nothing_shows_a_secret(caplog):
    options = {"metadata_proxy_shared_secret": "hunter2"}
    with caplog.at_level(logging.DEBUG):
        for factory in (hmac_sign.filter_factory, hmac_verify.filter_factory):
            made = factory({}, **options)
            app = made(Seen())
            call(app, target="/x", headers=GOOD, **FOUND)
            assert "hunter2" not in repr(made) + repr(app) + repr(vars(app))
    assert "hunter2" not in caplog.text


def test_the_names_are_those_of_the_table():
    """1.2: one module knows them."""
    assert [name for name, _ in GOOD] == [wire.INSTANCE_ID, wire.INSTANCE_SIGNATURE, wire.PROJECT_ID]
