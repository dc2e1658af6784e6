"""Content codings: stored content is never touched, a coding on the way only if the guest cannot take it.

W-13, W-14.
"""

import gzip
import os
import zlib

import pytest
from forwarding import PROVEN, free_slots, nova
from guest import call, environ
from hypothesis import given
from hypothesis import strategies as st
from peers import answers, once, response

from mdmw.boundary.relay import _decode, _pieces
from mdmw.errors import BackendError
from mdmw.upstream.exchange import BUFFER_LIMIT

PLAIN = "Content-Type: text/plain"
SMALL = b"#!/bin/sh\necho \xff\x00\n" * 50
LARGE = os.urandom(3 * BUFFER_LIMIT)
# Small on the wire, large when decoded: more than one piece comes out of one chunk.
DENSE = bytes(5 * BUFFER_LIMIT + 4321)


def coded(coding, body):
    return zlib.compress(body) if coding == "deflate" else gzip.compress(body, mtime=0)


def ask(app, accept_encoding=None, method="GET"):
    headers = [] if accept_encoding is None else [("Accept-Encoding", accept_encoding)]
    return call(app, method, headers=headers, **PROVEN)


@pytest.mark.parametrize("accept", [None, "", "gzip", "identity", "*;q=0"])
@pytest.mark.parametrize("body", [coded("gzip", SMALL), coded("gzip", LARGE)[:-3], b"\x1f\x8b", SMALL, LARGE])
def test_stored_gzip_is_not_touched(peers, forward, accept, body):
    """W-13: gzip user data is content; LP#2120723 crashed on it, and later decompressed it."""
    app = forward(nova, peers.unix(answers(response("200 OK", body, PLAIN))))
    reply = ask(app, accept)
    assert reply.body == body
    assert reply.value("Content-Encoding") is None
    assert reply.value("Content-Length") == str(len(body))


@pytest.mark.parametrize("accept", ["gzip", "GZIP", "deflate, gzip;q=0.1", "*", "gzip, *;q=0", "br, x-gzip"])
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZip"])
@pytest.mark.parametrize("body", [SMALL, LARGE, DENSE])
def test_a_coding_that_the_guest_takes(peers, forward, accept, coding, body):
    """W-14: raw bytes and the header."""
    sent = coded(coding, body)
    app = forward(nova, peers.unix(answers(response("200 OK", sent, PLAIN, f"Content-Encoding: {coding}"))))
    reply = ask(app, accept)
    assert (reply.body, reply.value("Content-Encoding")) == (sent, coding)


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "identity",
        "gzip;q=0",
        "br",
        "*;q=0",
        "identity, gzip;q=0.0",
        "gzip;q=0, deflate;q=0, *",
        ",;",
    ],
)
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZip", "deflate", " gzip "])
@pytest.mark.parametrize("body", [SMALL, LARGE, DENSE])
def test_a_coding_that_it_does_not_take(peers, forward, accept, coding, body):
    """W-14: decoded once, and the header dropped."""
    sent = coded(coding, body)
    app = forward(nova, peers.unix(answers(response("200 OK", sent, PLAIN, f"Content-Encoding: {coding}"))))
    reply = ask(app, accept)
    assert reply.body == body
    assert reply.value("Content-Encoding") is None
    assert free_slots(app) == 128


def test_decoded_once_only(peers, forward):
    """W-13 with W-14: gzip user data that a web server compressed again arrives gzipped."""
    stored = gzip.compress(SMALL)
    sent = response("200 OK", gzip.compress(stored), PLAIN, "Content-Encoding: gzip")
    assert ask(forward(nova, peers.unix(answers(sent)))).body == stored


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_whatever_the_framing(peers, forward, framing):
    head = f"HTTP/1.1 200 OK\r\n{PLAIN}\r\nContent-Encoding: gzip\r\n"
    sent = gzip.compress(LARGE)
    if framing == "chunked":
        data = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(sent), sent)
    else:
        data = head.encode() + b"Connection: close\r\n\r\n" + sent
    app = forward(nova, peers.unix(once(data)))
    assert ask(app).body == LARGE
    assert free_slots(app) == 128


@pytest.mark.parametrize("coding", ["br", "compress", "zstd", "identity", "gzip, gzip", "unknown"])
def test_what_cannot_be_decoded_passes_as_it_is(peers, forward, coding):
    app = forward(
        nova, peers.unix(answers(response("200 OK", b"bytes", PLAIN, f"Content-Encoding: {coding}")))
    )
    reply = ask(app)
    assert (reply.body, reply.value("Content-Encoding")) == (b"bytes", coding)


def test_two_header_lines_are_two_codings(peers, forward):
    twice = gzip.compress(gzip.compress(SMALL))
    headers = (PLAIN, "Content-Encoding: gzip", "Content-Encoding: gzip")
    reply = ask(forward(nova, peers.unix(answers(response("200 OK", twice, *headers)))))
    assert (reply.body, reply.values("Content-Encoding")) == (twice, ["gzip", "gzip"])


BROKEN = {
    "no gzip": b"plain text after all",
    "cut": gzip.compress(SMALL)[:-9],
    "without its end": gzip.compress(SMALL)[:-1],
    "wrong checksum": gzip.compress(SMALL)[:-8] + b"\0" * 8,
    "followed by something": gzip.compress(SMALL) + b"junk",
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_broken_body(peers, forward, kind):
    """A 502 rather than half of it."""
    app = forward(
        nova, peers.unix(answers(response("200 OK", BROKEN[kind], PLAIN, "Content-Encoding: gzip")))
    )
    assert ask(app).status == 502
    assert free_slots(app) == 128


@pytest.mark.parametrize("cut", [1, 9, BUFFER_LIMIT])
def test_a_broken_stream_raises(peers, forward, cut):
    """W-17: whole on the wire, but not when decoded; the guest's connection is cut."""
    sent = gzip.compress(LARGE)[:-cut]
    app = forward(nova, peers.unix(answers(response("200 OK", sent, PLAIN, "Content-Encoding: gzip"))))
    chunks = app(environ(**PROVEN), lambda *_: None)
    with pytest.raises(BackendError):
        b"".join(chunks)
    chunks.close()
    assert free_slots(app) == 128


def test_a_bomb(peers, forward):
    """64 MiB of zeros in 64 KiB: not into the memory of this process."""
    sent = gzip.compress(bytes(64 << 20))
    assert len(sent) < BUFFER_LIMIT
    app = forward(nova, peers.unix(answers(response("200 OK", sent, PLAIN, "Content-Encoding: gzip"))))
    assert ask(app).status == 502


def test_an_empty_body(peers, forward):
    app = forward(nova, peers.unix(answers(response("200 OK", b"", PLAIN, "Content-Encoding: gzip"))))
    reply = ask(app)
    assert (reply.status, reply.body) == (200, b"")


def test_head(peers, forward):
    """W-16: of what would have been decoded nobody knows the length."""
    data = f"HTTP/1.1 200 OK\r\n{PLAIN}\r\nContent-Encoding: gzip\r\nContent-Length: 99\r\n\r\n".encode()
    app = forward(nova, peers.unix(answers(data)))
    reply = ask(app, method="HEAD")
    assert (reply.status, reply.value("Content-Length"), reply.value("Content-Encoding")) == (200, None, None)
    reply = ask(app, "gzip", "HEAD")
    assert (reply.value("Content-Length"), reply.value("Content-Encoding")) == ("99", "gzip")


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.integers(1, 50), st.integers(0, 9))
def test_pieces_of_any_members_in_any_chunks(members, step, level):
    """A gzip body may have several members, and chunks end anywhere."""
    sent = b"".join(gzip.compress(member, level) for member in members)
    chunks = [sent[start : start + step] for start in range(0, len(sent), step)]
    assert b"".join(_pieces(chunks)) == b"".join(members)
    assert b"".join(_pieces([b"", *chunks, b""])) == b"".join(members)
    with pytest.raises(BackendError):
        b"".join(_pieces([sent[:-1]]))


@pytest.mark.parametrize("size", [0, 1, BUFFER_LIMIT - 1, BUFFER_LIMIT, BUFFER_LIMIT + 1, 4 * BUFFER_LIMIT])
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_no_piece_is_larger_than_the_buffer(size, step):
    """However dense the coding is: memory stays bounded, and the tail is not lost."""
    sent = gzip.compress(bytes(size), 9)
    pieces = list(_pieces(sent[start : start + step] for start in range(0, len(sent), step)))
    assert b"".join(pieces) == bytes(size)
    assert all(0 < len(piece) <= BUFFER_LIMIT for piece in pieces)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_a_back_end_error(body):
    try:
        _decode(body)
    except BackendError:
        return
    assert zlib.decompressobj(47).decompress(body) is not None
