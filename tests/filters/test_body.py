"""Reading a request's body whole (W-8, W-9)."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw.boundary.body import read_body
from mdmw.errors import BadRequest, BodyTooLarge, LengthRequired, RequestTimeout


class Slowly(io.RawIOBase):
    """An input that gives at most `step` bytes at a time, as sockets do."""

    def __init__(self, data, step):
        self.data, self.step, self.asked = data, step, []

    def read(self, size=-1):
        assert size >= 0, "a read without a bound"
        self.asked.append(size)
        part, self.data = self.data[: min(size, self.step)], self.data[min(size, self.step) :]
        return part


class Broken(io.RawIOBase):
    def __init__(self, error):
        self.error = error

    def read(self, size=-1):
        raise self.error


def of(stream, limit=65536, **more):
    return read_body({"wsgi.input": stream, **more}, limit)


@given(st.binary(max_size=500), st.integers(1, 50), st.booleans())
def test_all_of_it_however_it_arrives(body, step, chunked):
    """W-8: a body that arrives in later packets is not lost; chunked framing is not text."""
    framing = (
        {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
        if chunked
        else {"CONTENT_LENGTH": str(len(body))}
    )
    assert of(Slowly(body, step), **framing) == body


@pytest.mark.parametrize("more", [{}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "0"}])
def test_no_body(more):
    """Nothing is read where nothing was promised: some servers would wait for ever."""
    stream = Slowly(b"next request", 99)
    assert of(stream, **more) == b""
    assert stream.asked == []


def test_not_one_byte_more_than_promised():
    stream = Slowly(b"bodynext request", 99)
    assert of(stream, CONTENT_LENGTH="4") == b"body"
    assert stream.data == b"next request"


@pytest.mark.parametrize("length", ["65537", "999999999999999999"])
def test_too_long_is_refused_unread(length):
    """W-9: 413."""
    stream = Slowly(b"x" * 100, 10)
    with pytest.raises(BodyTooLarge):
        of(stream, CONTENT_LENGTH=length)
    assert stream.asked == []


def test_too_long_in_chunks():
    """W-9: given up after one byte too many."""
    stream = Slowly(b"x" * 1_000_000, 4096)
    with pytest.raises(BodyTooLarge):
        of(stream, 8192, **{"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True})
    assert len(stream.data) > 980_000


def test_the_limit_itself():
    assert len(of(Slowly(b"x" * 65536, 9999), CONTENT_LENGTH="65536")) == 65536


@pytest.mark.parametrize("length", ["-1", "x", "\u0661", "\xb2", "1_0", " 1", "+1", "9" * 5000])
def test_a_length_that_is_no_number(length):
    """In a pipeline of somebody else's nobody has looked at it before."""
    stream = Slowly(b"x" * 100, 10)
    with pytest.raises((BadRequest, BodyTooLarge)):
        of(stream, CONTENT_LENGTH=length)
    assert stream.asked == []


@pytest.mark.parametrize("body", [b"", b"tru"])
def test_a_body_that_ends_early(body):
    """W-8: half a password is not sent on."""
    with pytest.raises(BadRequest):
        of(Slowly(body, 10), CONTENT_LENGTH="9")


@pytest.mark.parametrize(
    ("raised", "error"),
    [(TimeoutError(), RequestTimeout), (ConnectionResetError("x"), BadRequest), (OSError("x"), BadRequest)],
)
def test_a_body_that_breaks_off(raised, error):
    with pytest.raises(error):
        of(Broken(raised), CONTENT_LENGTH="9")


def test_chunks_that_the_server_does_not_decode():
    """411, rather than an empty body that Nova would take for an empty password."""
    with pytest.raises(LengthRequired):
        of(Slowly(b"5\r\nhello\r\n0\r\n\r\n", 99), HTTP_TRANSFER_ENCODING="chunked")
