"""W-8, W-12 to W-17: bodies are bytes, in both directions."""

import gzip
import random
import zlib

import pytest

from .nova import OK, Cut, Nova, Recorded
from .running import Running

GZIPPED = gzip.compress(b"#!/bin/sh\necho hello\n" * 20, mtime=0)
ALL_BYTES = bytes(range(256)) * 4
LARGE = random.Random(7).randbytes(1024 * 1024)


def _answer(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _chunked(body: bytes, size: int) -> bytes:
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


# --- responses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(_answer(GZIPPED, b"Content-Type: text/plain"), GZIPPED, id="gzipped-user-data"),
        pytest.param(_answer(ALL_BYTES, b"Content-Type: text/plain; charset=UTF-8"), ALL_BYTES, id="no-utf8"),
        pytest.param(_answer(ALL_BYTES, b"Content-Type: application/octet-stream"), ALL_BYTES, id="octets"),
        pytest.param(_answer(b"", b"Content-Type: text/plain"), b"", id="empty"),
        pytest.param(
            _answer(b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", id="untyped"
        ),
        pytest.param(_answer(LARGE), LARGE, id="1-mib"),
        pytest.param(_chunked(ALL_BYTES, 100), ALL_BYTES, id="chunked"),
        pytest.param(_chunked(LARGE, 50_000), LARGE, id="1-mib-chunked"),
        pytest.param(Cut(b"HTTP/1.1 200 OK\r\n\r\n" + ALL_BYTES), ALL_BYTES, id="until-close"),
    ],
)
def test_w13_response_bodies_are_exact(running: Running, nova: Nova, answer: bytes, body: bytes) -> None:
    """W-12, W-13, W-15, W-17: no decoding, no added Content-Encoding, the length where it is known."""
    nova.answers[b"/body"] = answer
    reply = running.ask("/body")
    assert (reply.status, reply.complete) == (200, True)
    assert reply.body == body
    assert reply.header("Content-Encoding") is None
    if len(body) < 256 * 1024:
        assert reply.all("Content-Length") == [str(len(body))]
    else:
        assert reply.all("Content-Length") in ([], [str(len(body))])


@pytest.mark.configurations("to-nova")
@pytest.mark.parametrize("accept", ["gzip", None])
def test_w14_a_content_encoding_is_what_the_guest_admits(running: Running, nova: Nova, accept) -> None:
    """W-14: raw bytes and the header, or decoded once and no header."""
    nova.answers[b"/encoded"] = _answer(GZIPPED, b"Content-Encoding: gzip")
    reply = running.ask("/encoded", headers=[("Accept-Encoding", accept)] if accept else [])
    if accept:
        assert (reply.body, reply.header("Content-Encoding")) == (GZIPPED, "gzip")
    else:
        assert (reply.body, reply.header("Content-Encoding")) == (zlib.decompress(GZIPPED, 31), None)
    assert nova.only().all("Accept-Encoding") == ["identity"]


def test_w12_response_headers(running: Running, nova: Nova) -> None:
    """W-12: the listed ones pass, each once; the rest of Nova's do not."""
    passed = {
        "Content-Type": "text/plain; charset=latin-1",
        "Content-Language": "en",
        "ETag": '"abc"',
        "Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT",
        "Cache-Control": "no-store",
        "Expires": "0",
    }
    dropped = [b"Server: Nova", b"Set-Cookie: a=b", b"X-Secret: 1", b"Via: 1.1 x", b"Connection: keep-alive"]
    nova.answers[b"/h"] = _answer(b"x", *(f"{n}: {v}".encode() for n, v in passed.items()), *dropped)
    reply = running.ask("/h")
    assert {name: reply.all(name) for name in passed} == {name: [value] for name, value in passed.items()}
    assert "Nova" not in (reply.header("Server") or "")
    assert [reply.header(name) for name in ("Set-Cookie", "X-Secret", "Via")] == [None] * 3


@pytest.mark.parametrize("length", [b"0", b"1234", b"5000000"])
def test_w16_head_has_the_length_and_no_body(running: Running, nova: Nova, length: bytes) -> None:
    """W-16: the Content-Length that Nova reported."""
    nova.answers[b"/head"] = b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: %b\r\n\r\n" % length
    with running.connect() as connection:
        connection.send(running.compose("/head", "HEAD"))
        answer = connection.rest()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.partition(b"\r\n")[0]
    assert b"content-length: %b" % length in head.lower().split(b"\r\n")
    assert b"content-type: text/x" in head.lower()
    assert body == b""
    assert nova.only().line == b"HEAD /head HTTP/1.1"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_w17_a_body_cut_in_the_middle_is_not_ended_cleanly(
    running: Running, nova: Nova, chunked: bool
) -> None:
    """W-17: above 256 KiB the guest's connection is closed early, so that it knows."""
    half = LARGE[: 600 * 1024]
    whole = _chunked(LARGE, 100_000) if chunked else _answer(LARGE)
    nova.answers[b"/cut"] = Cut(whole[: whole.index(b"\r\n\r\n") + len(half)])
    reply = running.ask("/cut")
    assert reply.status == 200
    assert len(reply.body) <= len(half)
    assert LARGE.startswith(reply.body)
    if chunked and not running.traits.cut_shows_without_length:
        assert reply.complete  # ended by closing, or by a last chunk that nobody sent: a documented loss
    else:
        assert not reply.complete


def test_w17_a_small_body_cut_in_the_middle_is_503(running: Running, nova: Nova) -> None:
    """W-17, spec 1.6: nothing was sent to the guest yet, so it gets a whole answer, and may try again."""
    nova.answers[b"/cut"] = Cut(_answer(b"x" * 1000)[:-500])
    assert running.ask("/cut").status == 503


# --- requests ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"x", ALL_BYTES, b"\r\n\r\n", b"0\r\n\r\n", LARGE[: 64 * 1024]],
    ids=["one", "binary", "blank-lines", "like-a-chunk", "64-kib"],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_w8_request_bodies_are_exact(running: Running, nova: Nova, method: str, body: bytes) -> None:
    """W-8: with a length."""
    headers = [("Content-Type", "application/octet-stream")]
    assert running.ask("/openstack/2013-04-04/password", method, headers, body).status == 200
    request = nova.only()
    assert request.body == body
    assert request.all("Content-Length") == [str(len(body))]
    assert request.all("Content-Type") == ["application/octet-stream"]
    assert request.all("Transfer-Encoding") == []


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("headers", [[], [("Content-Length", "0")]], ids=["no-length", "zero"])
def test_w8_no_body(running: Running, nova: Nova, method: str, headers) -> None:
    """W-8: a POST without a body is one of length 0."""
    assert running.ask("/p", method, headers).status == 200
    assert nova.only().body == b""
    assert nova.only().all("Content-Length") == ["0"]


def test_w8_a_body_in_late_packets(running: Running, nova: Nova) -> None:
    """W-8: LP: the generations before lost what came after the headers."""
    message = running.compose("/late", "POST", [("Content-Length", "6")])
    with running.connect() as connection:
        for part in (message[:20], message[20:], b"ab", b"cd", b"ef"):
            assert not nova.requests
            connection.send(part)
        assert connection.reply("POST").status == 200
    assert nova.only().body == b"abcdef"


@pytest.mark.parametrize(
    "framed",
    [
        b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
        b"006\r\nabcdef\r\n0\r\n\r\n",
        b"6;name=value\r\nabcdef\r\n0\r\n\r\n",
        b"6\r\nabcdef\r\n0\r\nX-Forwarded-For: 10.0.0.6\r\nX-Instance-ID: x\r\n\r\n",
    ],
    ids=["two", "zeros", "extension", "trailers"],
)
def test_w8_chunked_request_bodies(running: Running, nova: Nova, framed: bytes) -> None:
    """W-8: the framing is taken off, and trailers never count; where the server cannot, 411."""
    reply = running.ask("/chunked", "POST", [("Transfer-Encoding", "chunked")], framed)
    if not running.traits.chunked_requests:
        assert reply.status == 411
        assert nova.requests == []
        return
    assert reply.status == 200
    request = nova.only()
    assert (request.body, request.all("Content-Length")) == (b"abcdef", ["6"])
    assert request.all("Transfer-Encoding") == []
    assert request.all("X-Forwarded-For") == [dict(running.expected())["X-Forwarded-For"]]


def test_w8_a_chunked_body_in_late_packets(running: Running, nova: Nova) -> None:
    """W-8: chunks that arrive one by one."""
    with running.connect() as connection:
        connection.send(running.compose("/late", "POST", [("Transfer-Encoding", "chunked")]))
        if running.traits.chunked_requests:
            for part in (b"3", b"\r\nabc\r", b"\n3\r\nde", b"f\r\n0\r", b"\n\r\n"):
                connection.send(part)
        reply = connection.reply("POST")
    if running.traits.chunked_requests:
        assert reply.status == 200
        assert nova.only().body == b"abcdef"
    else:
        assert reply.status == 411


def test_w8_a_body_that_never_ends_reaches_nobody(running: Running, nova: Nova) -> None:
    """W-8: a guest that goes away in the middle of its body has sent nothing."""
    with running.connect() as connection:
        connection.send(running.compose("/short", "POST", [("Content-Length", "10")], b"abc"))
    assert running.ask("/after").status == 200
    assert [request.target for request in nova.requests] == [b"/after"]


def test_nova_answering_early(running: Running, nova: Nova) -> None:
    """Conflict and too large come with Nova's words."""
    words = b"already set"

    def conflict(request: Recorded) -> bytes:
        return (OK % (len(words), words)).replace(b"200 OK", b"409 Conflict")

    nova.answers[b"/password"] = conflict
    reply = running.ask("/password", "POST", body=b"secret")
    assert (reply.status, reply.body) == (409, words)
