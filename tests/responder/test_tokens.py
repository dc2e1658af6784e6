"""Session tokens (spec 7.6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from responder_client import client

from mdmw.errors import Unauthorized
from mdmw.records import SOURCE, Scope, Source
from mdmw.responder.tokens import Tokens
from mdmw.signing import Signer

PATH = "/latest/api/token"
LEAF = "/latest/meta-data/instance-id"
TTL = "HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS"
TOKEN = "HTTP_X_AWS_EC2_METADATA_TOKEN"


class Clock:
    now = 1_800_000_000.5

    def __call__(self):
        return self.now


def make(required=False, secrets=("s3cret",), clock=None):
    return client(tokens=Tokens(Signer(secrets), required, clock or Clock()))


def token_of(get, ttl="60", **more):
    answer = get(PATH, "PUT", **{TTL: ttl}, **more)
    assert answer.status == 200
    return answer.text


def test_spec_7_6_off_is_404(get):
    """Spec 7.6: as in Nova by default; a token that is sent does not matter."""
    assert get(PATH, "PUT", **{TTL: "60"}).status == 404
    assert get(PATH).status == 404
    assert get(LEAF, **{TOKEN: "x"}).status == 200


@pytest.mark.parametrize("required", [False, True])
def test_spec_7_6_issue_and_use(required):
    """Spec 7.6: a token is text, and opens what it is for."""
    get = make(required)
    answer = get(PATH, "PUT", **{TTL: "21600"})
    assert (answer.status, answer.type) == (200, "text/plain; charset=UTF-8")
    assert answer.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "21600"
    assert get(LEAF, **{TOKEN: answer.text}).text == "i-0000002a"
    assert get("/openstack/latest/meta_data.json", "HEAD", **{TOKEN: answer.text}).status == 200
    assert get("/ec2/latest/api/token/", "PUT", **{TTL: "1"}).status == 200


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-1", "1.5", "x", "²", "1" * 30, "1, 2"])
def test_spec_7_6_ttl(ttl):
    """Spec 7.6: 1 to 21600 seconds, else 400."""
    assert make()(PATH, "PUT", **{TTL: ttl}).status == 400
    assert make()(PATH, "PUT").status == 400


def test_spec_7_6_not_through_a_proxy():
    """Spec 7.6: 403 when the request was forwarded."""
    source = Source("10.0.0.5", Scope("network", "n"), forwarded=True)
    assert make()(PATH, "PUT", **{TTL: "60", SOURCE: source}).status == 403


def test_spec_7_6_optional_and_required():
    """Spec 7.6: without a token; "/" is open to anybody in each case."""
    assert make(required=False)(LEAF).status == 200
    assert make(required=True)(LEAF).status == 401
    assert make(required=True)("/openstack/latest/password", "POST", b"x").status == 401
    assert make(required=True)("/nothing").status == 401
    assert make(required=True)("/", guest=None).status == 200


def test_spec_7_6_bound_to_the_instance():
    """Spec 7.6: another guest's token is 401."""
    get = make()
    token = token_of(get)
    assert get(LEAF, guest="red-1", **{TOKEN: token}).status == 401
    assert get(LEAF, **{TOKEN: token}).status == 200


def test_spec_7_6_expires():
    """Spec 7.6: bound to an expiry."""
    clock = Clock()
    get = make(clock=clock)
    token = token_of(get, "60")
    clock.now += 59
    assert get(LEAF, **{TOKEN: token}).status == 200
    clock.now += 2
    assert get(LEAF, **{TOKEN: token}).status == 401


def test_spec_7_6_expiry_cannot_be_changed():
    """Spec 7.6: the signature covers it."""
    get = make()
    expiry, _, signature = token_of(get).partition(".")
    assert get(LEAF, **{TOKEN: f"{int(expiry) + 1}.{signature}"}).status == 401


def test_spec_7_6_rotation():
    """The newest secret signs, any listed one counts."""
    token = token_of(make(secrets=("old",)))
    assert make(secrets=("new", "old"))(LEAF, **{TOKEN: token}).status == 200
    assert make(secrets=("new",))(LEAF, **{TOKEN: token}).status == 401


@given(st.text(st.characters(max_codepoint=255), max_size=90))
def test_spec_7_6_no_made_up_token_counts(token):
    """Spec 7.6: any other text is 401, and nothing worse."""
    with pytest.raises(Unauthorized):
        Tokens(Signer(("s",)), required=False).check({TOKEN: token}, "instance")
