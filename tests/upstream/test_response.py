"""A response while its bytes arrive: the same whatever the pieces, and nothing but a response."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mdmw.upstream.connection import MAX_HEAD, MAX_HEADERS, BadResponse, Cut, Response, _known

PLAIN = b"HTTP/1.1 200 Fine\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: x\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"


def fed(data: bytes, to_head: bool = False, cuts: tuple[int, ...] = ()) -> Response:
    response = Response(to_head)
    edges = [0, *sorted(cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        if data[start:stop]:
            response.feed(data[start:stop])
    return response


@given(st.sampled_from([PLAIN, CHUNKED]), st.booleans(), st.data())
def test_w_8_the_pieces_do_not_matter(message, with_interim, data):
    """W-8, W-13: one byte at a time or all at once, with interim responses before it or not."""
    message = (INTERIM if with_interim else b"") + message
    cuts = data.draw(st.lists(st.integers(1, len(message) - 1), max_size=9))
    response = fed(message, cuts=tuple(cuts))
    assert (response.status, response.take(), response.complete) == (200, b"hello", True)
    assert response.reusable
    assert "Link" not in dict(response.headers)


def said(data: bytes, to_head: bool, cuts: tuple[int, ...] = ()) -> object:
    try:
        response = fed(data, to_head, cuts)
    except BadResponse:
        return BadResponse
    return (
        response.status,
        response.reason,
        response.headers,
        response.complete,
        response.reusable,
        (response.take() if response.complete else None),
    )


LINES = ["Content-Length: 5", "content-length: 0", "Connection: close", "Transfer-Encoding: chunked", "A: b"]
HEADS = st.builds(
    lambda start, lines, ends: ends.join([start, *lines]) + 2 * ends,
    st.sampled_from(["HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 304 No", "HTTP/1.1 103 Early"]),
    st.lists(st.sampled_from(LINES), max_size=3),
    st.sampled_from(["\r\n", "\n"]),
)
BODIES = st.sampled_from(
    [
        "",
        "hello",
        "hell",
        "hello you",
        "\r\n\r\nh",
        "\r\n\r\nhello",
        "5\r\nhello\r\n0\r\n\r\n",
        PLAIN.decode(),
    ]
)


@given(HEADS, st.lists(BODIES, min_size=2, max_size=3), st.booleans())
@example("HTTP/1.1 200 OK\nContent-Length: 5\n\n", ["\r\n\r\nh", "\r\n\r\nhello"], False)
def test_w_10_a_head_that_came_before_means_the_same_again(head, bodies, to_head):
    """W-10, W-16: whole, and again with another body, is what the parser says of the pieces."""
    for body in bodies:
        data = (head + body).encode()
        assert said(data, to_head) == said(data, to_head, cuts=(1,))


def test_the_heads_that_are_remembered_are_few_and_short():
    for number in range(1000):
        fed(PLAIN.replace(b"Fine", b"Fine %d" % number))
    fed(PLAIN.replace(b"Fine", b"Fine" * 1000))
    assert 0 < len(_known) <= 256
    assert max(map(len, _known)) <= 2048


def test_the_promised_length_and_reason():
    response = fed(PLAIN)
    assert (response.reason, response.length, dict(response.headers)["Content-Type"]) == (
        "Fine",
        5,
        "text/plain",
    )


@pytest.mark.parametrize("extra", [b"x", PLAIN, b"HTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\ny"])
def test_surplus_bytes_are_not_part_of_it_and_end_the_connection(extra):
    response = fed(PLAIN + extra)
    assert (response.status, response.take(), response.reusable) == (200, b"hello", False)


def test_w_16_head_has_no_body():
    """W-16: complete with its head; a body that comes all the same is surplus."""
    head = PLAIN[: -len(b"hello")]
    response = fed(head, to_head=True)
    assert (response.complete, response.reusable, response.length, response.take()) == (True, True, 5, b"")
    assert not fed(PLAIN, to_head=True).reusable


@pytest.mark.parametrize("status", [204, 304])
def test_w_16_statuses_without_a_body(status):
    """W-16: 204 and 304 end with their head, whatever length they promise."""
    response = fed(b"HTTP/1.1 %d X\r\nContent-Length: 7\r\n\r\n" % status)
    assert (response.complete, response.take()) == (True, b"")


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0", b"HTTP/1.0 200 OK\r\nContent-Length: 0"],
)
def test_a_peer_that_will_close_is_not_reused(head):
    response = fed(head + b"\r\n\r\n")
    assert (response.complete, response.reusable) == (True, False)


def test_a_body_may_end_with_the_connection_only_if_nothing_else_ends_it():
    response = fed(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert not response.complete
    response.end()
    assert (response.take(), response.complete, response.reusable) == (b"hello", True, False)
    for message in (PLAIN, CHUNKED, INTERIM, b"HTTP/1.1 200 OK\r\n"):
        cut = fed(message[:-1])
        with pytest.raises(Cut):
            cut.end()


def test_lone_line_feeds_as_neutron_writes_them():
    """Spec 1.8: the agent of Neutron 2025.1 and later ends lines so."""
    response = fed(b"HTTP/1.1 404 Not Found\nContent-Type: text/plain\nContent-Length: 2\n\nno")
    assert (response.status, response.take()) == (404, b"no")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * MAX_HEAD + b"\r\n\r\n",
        b"HTTP/1.1 103 X\r\n\r\n" * MAX_HEAD,
    ],
)
def test_w_10_doubtful_responses_are_refused(data):
    """W-10 on the other side: two lengths, folded lines, no HTTP at all, a head without end."""
    with pytest.raises(BadResponse):
        fed(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_response_or_a_known_error(data):
    for prefix in (b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", CHUNKED[:40]):
        response = Response(to_head=False)
        try:
            response.feed(prefix + data)
            if not response.complete:
                response.end()
        except (BadResponse, Cut):
            continue
        assert response.complete
