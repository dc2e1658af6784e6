"""W-10: messages whose length or lines can be read in two ways."""

import pytest

from .nova import Nova
from .running import Running

REFUSED = "400 and close"
OPEN = "400"  # and the connection goes on: there is no doubt where the next request begins
CLOSED = "close"  # without an answer
PASSED = "200"  # the server found one meaning
UNKNOWN_CODING = "501"
NO_CHUNKS = "411"

_CHUNKED = b"5\r\nabcde\r\n0\r\n\r\n"

#: Name -> (header lines, body).
_CASES: dict[str, tuple[bytes, bytes]] = {
    "length-and-chunked": (b"Content-Length: 5\r\nTransfer-Encoding: chunked", _CHUNKED),
    "chunked-and-length": (b"Transfer-Encoding: chunked\r\nContent-Length: 15", _CHUNKED),
    "two-lengths": (b"Content-Length: 5\r\nContent-Length: 3", b"abcde"),
    "two-equal-lengths": (b"Content-Length: 5\r\nContent-Length: 5", b"abcde"),
    "length-list": (b"Content-Length: 5, 5", b"abcde"),
    "length-plus": (b"Content-Length: +5", b"abcde"),
    "length-negative": (b"Content-Length: -5", b"abcde"),
    "length-hex": (b"Content-Length: 0x5", b"abcde"),
    "length-empty": (b"Content-Length: ", b""),
    "length-superscript": (b"Content-Length: \xb2", b"ab"),
    "length-underscore": (b"Content_Length: 3\r\nContent-Length: 5", b"abcde"),
    "chunked-underscore": (b"Transfer_Encoding: chunked\r\nContent-Length: 15", _CHUNKED),
    "chunked-twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", _CHUNKED),
    "chunked-not-last": (b"Transfer-Encoding: chunked, identity", _CHUNKED),
    "coding-unknown": (b"Transfer-Encoding: xchunked", _CHUNKED),
    "bare-cr": (b"X-One: a\rX-Two: b", b""),
    "bare-cr-identity": (b"X-One: a\rX-Forwarded-For: 10.0.0.6", b""),
    "obs-fold": (b"X-One: a\r\n X-Forwarded-For: 10.0.0.6", b""),
    "space-before-colon": (b"X-Forwarded-For : 10.0.0.6", b""),
    "no-colon": (b"X-Forwarded-For 10.0.0.6", b""),
    "empty-name": (b": 10.0.0.6", b""),
    "nul": (b"X-One: a\x00b", b""),
    "bare-lf": (b"X-One: a\nX-Forwarded-For: 10.0.0.6", b""),
}

#: What the servers do with them, where it is not REFUSED.
_GUNICORN = {"length-underscore": PASSED, "chunked-underscore": PASSED, "coding-unknown": UNKNOWN_CODING}
_OUTCOMES: dict[str, dict[str, str]] = {
    "gunicorn": _GUNICORN,
    "gunicorn-gevent": _GUNICORN,
    "uwsgi": {
        "length-empty": PASSED,
        "chunked-twice": NO_CHUNKS,
        "chunked-not-last": NO_CHUNKS,
        "coding-unknown": NO_CHUNKS,
        "bare-cr": CLOSED,
        "bare-cr-identity": CLOSED,
        "no-colon": CLOSED,
        "empty-name": CLOSED,
        "space-before-colon": PASSED,
    },
    "waitress": {
        "length-and-chunked": PASSED,
        "chunked-and-length": PASSED,
        "length-underscore": PASSED,
        "chunked-underscore": PASSED,
        "chunked-twice": PASSED,
        "chunked-not-last": UNKNOWN_CODING,
        "coding-unknown": UNKNOWN_CODING,
        "obs-fold": PASSED,
    },
    "granian": {
        "length-and-chunked": PASSED,
        "chunked-and-length": PASSED,
        "two-equal-lengths": PASSED,
        "length-underscore": PASSED,
        "chunked-underscore": OPEN,
        "chunked-twice": PASSED,
        "bare-lf": PASSED,
    },
}


@pytest.mark.configurations("combined")
@pytest.mark.parametrize("case", _CASES)
def test_w10_ambiguous_messages(running: Running, nova: Nova, case: str) -> None:
    """W-10: 400 and close, or what doc/servers.rst says of this server; never another identity or body."""
    lines, body = _CASES[case]
    method = b"POST" if body else b"GET"
    with running.connect() as connection:
        connection.send(
            b"%b /w10 HTTP/1.1\r\nHost: 169.254.169.254\r\n%b\r\n\r\n%b" % (method, lines, body)
            + b"GET /next HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n"
        )
        answer = connection.rest()
    outcome = _OUTCOMES[running.configuration.server].get(case, REFUSED)
    assert _seen(answer) == outcome
    for request in nova.requests:
        headers = [(name.decode(), value.decode()) for name, value in request.headers]
        assert [pair for pair in headers if pair[0].startswith("X-")] == running.expected()
        wanted = {b"/next": [b""], b"/w10": [body, b"abcde"] if body else [b""]}
        assert request.body in wanted[request.target]
    assert (b"/w10" in [request.target for request in nova.requests]) == (outcome == PASSED)


def _seen(answer: bytes) -> str:
    if not answer:
        return CLOSED
    status = answer.split(b" ", 2)[1].decode()
    return REFUSED if status == "400" and answer.count(b"HTTP/1.") == 1 else status
