"""Paths (E-1, E-3) and methods (E-4)."""

import posixpath
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from responder_client import GUESTS, client

from mdmw.responder import app, trees

_segments = st.sampled_from(["", ".", "..", "...", "a", "b c", "%", "é", "openstack", "ec2", "latest", "\0"])
_paths = st.lists(_segments | st.text(max_size=3), max_size=8).map(lambda parts: "/" + "/".join(parts))


@given(_paths)
def test_e1_is_posix_normalisation(path):
    """E-1: as posixpath.normpath, and two leading slashes vanish too."""
    expected = posixpath.normpath("/" + path.lstrip("/"))
    assert app.normalise(quote(path, safe="/")) == expected
    assert app.normalise(quote(path, safe="")) == expected
    assert app.normalise(quote(path) + "?a=/b/../c") == expected


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/?x", "/"),
        ("/a//b/./c/../", "/a/b"),
        ("/../../a", "/a"),
        ("/a%2Fb", "/a/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/a%3Fb", "/a?b"),
        ("/a%252e", "/a%2e"),
        ("/%zz%", "/%zz%"),
    ],
)
def test_e1_examples(target, path):
    """E-1: decoded once; what is no escape stays."""
    assert app.normalise(target) == path


@pytest.mark.parametrize("prefix", ["", "/ec2", "//", "/./ec2/", "/x/..", "/%65c2"])
def test_e1_ec2_is_the_default_tree(get, prefix):
    """E-1: `/latest/x` is `/ec2/latest/x`."""
    assert get(f"{prefix}/latest/meta-data/instance-id").text == "i-0000002a"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/openstack",
        "/latest",
        "/latest/user-data",
        "/latest/meta-data",
        "/latest/meta-data/hostname",
        "/latest/meta-data/public-keys/0",
        "/latest/meta-data/placement/availability-zone",
        "/openstack/latest",
        "/openstack/latest/user_data",
        "/openstack/latest/network_data.json",
        "/openstack/latest/password",
        "/openstack/content/0000",
    ],
)
def test_e1_trailing_slash_never_matters(get, path):
    """E-1: neither on directories nor on leaves."""
    plain = get(path)
    assert plain.status == 200
    for slashes in ("/", "//", "/.", "/x/.."):
        assert get(path + slashes) == plain


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/2022-01-01",
        "/2022-01-01/meta-data",
        "/latest/metadata",
        "/latest/meta-data/nothing",
        "/latest/meta-data/hostname/x",
        "/latest/meta-data/security-groups/default",
        "/latest/meta-data/public-keys/0/openssh-key/x",
        "/latest/meta-data/public-keys/2",
        "/latest/meta-data/public-keys/0=ada",
        "/latest/user-data/x",
        "/latest/dynamic/instance-identity/document",
        "/latest/meta-data/iam/security-credentials/",
        "/latest/meta-data%0a",
        "/latest/%ff%fe",
        "/ec2/ec2",
        "/ec2/openstack",
        "/openstack/2019-01-01",
        "/openstack/2019-01-01/meta_data.json",
        "/openstack/latest/meta_data.json/x",
        "/openstack/latest/nothing",
        "/openstack/latest/password/x",
        "/openstack/latest/version",
        "/openstack/content",
        "/openstack/content/",
        "/openstack/content/0002",
        "/openstack/content/0",
        "/openstack/content/0000/x",
        "/openstack/2012-08-10/password",
        "/openstack/2013-04-04/vendor_data.json",
        "/openstack/2016-06-30/vendor_data2.json",
        "/OPENSTACK",
    ],
)
def test_e3_unknown_paths(get, path):
    """E-3: unknown versions and paths, and paths below a leaf, are 404."""
    assert get(path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/", "GET, HEAD"),
        ("/openstack/latest/meta_data.json", "GET, HEAD"),
        ("/latest/meta-data/hostname", "GET, HEAD"),
        ("/nothing", "GET, HEAD"),
        ("/openstack/latest/password", "GET, HEAD, POST"),
        ("/latest/api/token", "GET, HEAD, PUT"),
    ],
)
def test_e4_methods(get, method, path, allow):
    """E-4: what a path does not have is 405, with what it has."""
    answer = get(path, method)
    if method in allow:
        assert answer.status in (200, 404)
    else:
        assert (answer.status, answer.headers["Allow"]) == (405, allow)


_KNOWN = [
    "/",
    *(f"/{version}" for version in trees.EC2_TREE_VERSIONS),
    *(f"/openstack/{version}" for version in trees.VERSIONS),
]


def _walk(get, path):
    """Every path below a directory, by its listings, as cloud-init does it."""
    answer = get(path)
    assert answer.status == 200
    yield path, answer
    for name in answer.text.split("\n") if path.endswith("/") else ():
        child = name.split("=")[0] + "/" if path.endswith("public-keys/") else name
        yield from _walk(get, path + child)


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("version", trees.EC2_TREE_VERSIONS)
def test_e2_everything_listed_is_there(get, guest, version):
    """E-2: listings and leaves are one thing; HEAD is GET without the body (W-16)."""

    def ask(path):
        return get(path, guest=guest)

    found = dict(_walk(ask, f"/{version}/meta-data/"))
    assert f"/{version}/meta-data/instance-id" in found
    for path, answer in found.items():
        head = get(path, "HEAD", guest=guest)
        assert (head.status, head.headers, head.body) == (200, answer.headers, b"")


@given(
    st.builds(
        lambda base, more, slash: base + more + slash,
        st.sampled_from(_KNOWN) | st.just(""),
        _paths.map(lambda path: quote(path, safe="/")) | st.just(""),
        st.sampled_from(["", "/", "//"]),
    ),
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]),
    st.sampled_from(list(GUESTS)),
)
def test_any_path_gets_an_answer(path, method, guest):
    """E-1 to E-4: 200, 404 or 405 for any path, and no exception."""
    assert _ANY(path or "/", method, guest=guest).status in (200, 404, 405)


_ANY = client()


@pytest.mark.parametrize("target", ["latest", "*", "", "/a b", "/a\\b", "/\x01", "/\x7f"])
def test_malformed_targets(get, target):
    """W-7: what is no request target is 400."""
    assert get(target or "/", REQUEST_URI=target or "x").status == 400


def test_absolute_target(get):
    """W-7: the authority of an absolute target is ignored."""
    assert get("http://elsewhere/latest/meta-data/instance-id").text == "i-0000002a"


def test_target_of_a_server_that_decoded_it(get):
    """Without REQUEST_URI and RAW_URI the target is made of PATH_INFO."""
    answer = get("", PATH_INFO="/latest/meta-data/instance-id")
    assert answer.text == "i-0000002a"
