"""W-7: the request target goes through as the guest wrote it."""

import pytest

from .client import request
from .nova import Nova
from .pipelines import ADA
from .running import Running

# (as written, as granian lets it be known: decoded once, and quoted again)
_TARGETS = [
    ("/", "/"),
    ("/latest//meta-data/", "/latest//meta-data/"),
    ("/a%2Fb//c/../d?x=%20y", "/a/b//c/../d?x=%20y"),
    ("/a%3Fb%2Fc", "/a%3Fb/c"),
    ("/a%23b", "/a%23b"),
    ("/%7euser/%41", "/~user/A"),
    ("/a/./b/../../c", "/a/./b/../../c"),
    ("/a;b=c,d?e=f&g;h=%zz", "/a;b=c,d?e=f&g;h=%zz"),
    ("/a?b?c=/d//e", "/a?b?c=/d//e"),
    ("/%C3%A9%FF", "/%C3%A9%FF"),
    ("//double/slash", "//double/slash"),
    ("/a:b@c!$&'()*+", "/a:b@c!$&'()*+"),
    ("/a|b^c`d{e}", "/a%7Cb%5Ec%60d%7Be%7D"),
]


@pytest.mark.parametrize(("written", "requoted"), _TARGETS)
def test_w7_raw_target(running: Running, nova: Nova, written: str, requoted: str) -> None:
    """W-7: byte for byte; granian has no raw target, which is a documented loss."""
    wanted = written if running.traits.raw_target else requoted
    reply = running.ask(written)
    if "^" in written and not running.traits.odd_targets:
        assert reply.status == 400
        return
    if wanted != written and running.is_relay_target and running.is_signed:
        assert reply.status == 400  # the relay signed what it wrote
        assert nova.requests == []
        return
    assert reply.status == 200
    assert nova.only().line == f"GET {wanted} HTTP/1.1".encode()


def test_w7_an_empty_query_keeps_its_question_mark(running: Running, nova: Nova) -> None:
    """W-7: `/a?` is not `/a`, but without a raw target nobody knows."""
    reply = running.ask("/a?")
    if running.traits.raw_target:
        assert nova.only().target == b"/a?"
    elif reply.status == 200:
        assert nova.only().target == b"/a"
    else:
        assert reply.status == 400
        assert running.is_relay_target


@pytest.mark.configurations("guest-facing")
@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("http://169.254.169.254/latest?x=%20", "/latest?x=%20"),
        ("http://other.example:81/latest", "/latest"),
        ("HTTP://u:p@victim/", "/"),
    ],
)
def test_w7_absolute_form_loses_its_authority(
    running: Running, nova: Nova, written: str, wanted: str
) -> None:
    """W-7: only the path and query of an absolute target count."""
    reply = running.ask(written)
    assert reply.status == 200
    assert nova.only().target == wanted.encode()
    assert nova.only().all("Host") == ["169.254.169.254"]


@pytest.mark.configurations("guest-facing")
@pytest.mark.parametrize(
    "target",
    [
        b"/a b",
        b"/a\x00b",
        b"/a\x01b",
        b"/a\x7fb",
        b"/a\\b",
        b"/a\tb",
        b"a/b",
        b"*",
        b"",
        b"/a\rb",
        b"\xff\xfe",
    ],
)
def test_w7_what_must_not_be_in_a_target(running: Running, nova: Nova, target: bytes) -> None:
    """W-7: control characters, space and backslash get 400, or the connection is closed."""
    with running.connect() as connection:
        headers = [("Host", "169.254.169.254"), ("Connection", "close")]
        connection.send(request("GET", target, headers))
        answer = connection.rest()
    if target == b"/a\\b" and not running.traits.raw_target:
        assert nova.only().target == b"/a%5Cb"  # quoted again, and so harmless
        return
    # uWSGI cuts the target at the space, and says the rest for the protocol of its answer.
    assert b" 400 " in answer.partition(b"\r\n")[0] or answer == b"", answer
    assert nova.requests == []


@pytest.mark.configurations("guest-facing")
def test_w7_high_bytes(running: Running, nova: Nova) -> None:
    """W-7: bytes above 127 go through raw, or the server refuses them; they are never changed."""
    with running.connect() as connection:
        headers = [("Host", "169.254.169.254"), ("Connection", "close")]
        connection.send(request("GET", b"/caf\xc3\xa9\xff", headers))
        answer = connection.rest()
    if answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        wanted = b"/caf\xc3\xa9\xff" if running.traits.raw_target else b"/caf%C3%A9%FF"
        assert nova.only().target == wanted
    else:
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert nova.requests == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
def test_w6_methods_go_through(running: Running, nova: Nova, method: str) -> None:
    """W-6: the method is relayed unchanged."""
    assert running.ask("/m", method).status == 200
    assert nova.only().line == f"{method} /m HTTP/1.1".encode()


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_w6_connect_and_trace_are_never_relayed(running: Running, nova: Nova, method: str) -> None:
    """W-6: 405 here, except that some servers end a CONNECT themselves."""
    with running.connect() as connection:
        connection.send(running.compose("/m", method))
        answer = connection.rest()
    if method == "CONNECT" and answer == b"":
        assert running.traits.closes_connect
    else:
        assert b" 405 " in answer.partition(b"\r\n")[0]
        assert b"allow: get, head, post, put, delete" in answer.lower()
    assert nova.requests == []


def test_head_of_the_line_is_not_mistaken(running: Running, nova: Nova) -> None:
    """The target that Nova sees is the guest's even when the guest says it twice."""
    headers = [
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("X-HTTP-Method-Override", "DELETE"),
    ]
    assert running.ask("/mine", headers=headers, guest=ADA).status == 200
    assert nova.only().line == b"GET /mine HTTP/1.1"
