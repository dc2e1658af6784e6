"""Anything at all over a real socket: an answer of 4xx or a closed connection, and nothing of others."""

import contextlib
import re
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .client import Connection
from .nova import Nova
from .pipelines import ADA, BEN, CYD, GREEN
from .running import Running

EXAMPLES = 60
_QUIET = 0.1  # a server that says nothing for so long is waiting for more of the request

_pieces = st.sampled_from(
    [
        *(b"GET", b"POST", b"HEAD", b"PUT", b"TRACE", b"CONNECT", b"OPTIONS", b"get", b"PRI"),
        *(b"/", b"/latest/meta-data/", b"*", b"http://x/", b"//", b"/%", b"/%00", b"?", b"#", b"..", b"\\"),
        *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.11", b"http/1.1", b"HTTP/"),
        *(b" ", b"  ", b"\t", b"\r", b"\n", b"\r\n", b"\x00", b"\x0b", b"\xa0", b"\xff", b":", b",", b";"),
    ]
)
_line = st.lists(_pieces | st.binary(max_size=6), max_size=7).map(b"".join)
_request_line = (
    st.tuples(
        st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT"]),
        _pieces,
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"]),
    ).map(b" ".join)
    | _line
)
_names = st.sampled_from(
    [
        *(b"Host", b"Connection", b"Content-Length", b"Transfer-Encoding", b"Expect", b"Upgrade", b"TE"),
        *(b"X-Forwarded-For", b"X_Forwarded_For", b"X-Neutron-Network-ID", b"X-Neutron-Router-ID"),
        *(
            b"X-Instance-ID",
            b"x_instance_id",
            b"X-Tenant-ID",
            b"Forwarded",
            b"Content_Length",
            b"Content-Type",
        ),
        *(
            b"Accept",
            b"Accept-Encoding",
            b"If-None-Match",
            b"User-Agent",
            b"Cookie",
            b"Range",
            b"Script-Name",
        ),
    ]
)
_values = st.sampled_from(
    [
        *(
            b"",
            b"0",
            b"5",
            b"-1",
            b"5, 5",
            b"99999999999999999999",
            b"chunked",
            b"gzip, chunked",
            b"identity",
        ),
        *(b"close", b"keep-alive", b"Upgrade, HTTP2-Settings", b"h2c", b"100-continue", b"200-ok", b"\x00"),
        *(
            BEN.address.encode(),
            BEN.instance.encode(),
            GREEN.encode(),
            b"for=10.0.0.6",
            b"a\r\n b",
            b"\xff\xfe",
        ),
        *(b"application/json;q=zz", b"*/*;q=", b"gzip;q=,", b"bytes=0-", b'"', b"a" * 9000),
    ]
)
_header = st.tuples(
    _names | st.binary(min_size=1, max_size=8),
    st.sampled_from([b": ", b":", b" : ", b"\t:", b""]),
    _values | st.binary(max_size=20),
).map(b"".join)
_head = st.tuples(
    _request_line,
    st.lists(_header | _line, max_size=6),
    st.sampled_from([b"\r\n"] * 6 + [b"\n", b"\r"]),
).map(lambda parts: parts[2].join([parts[0], *parts[1], b"", b""]))
_body = (
    st.just(b"")
    | st.sampled_from([b"5\r\nabcde\r\n0\r\n\r\n", b"abcde", b"zz\r\n", b"0\r\n\r\n"])
    | st.binary(max_size=20)
)
_message = st.tuples(_head, _body).map(b"".join)

_OTHERS = [
    text.encode() for guest in (BEN, CYD) for text in (guest.instance, f" {guest.address}", guest.project)
]
# A coding, an expectation or a version that a server does not know; RFC 9110 wants 5xx for two of them.
_ALLOWED = (b"501", b"505")
# uWSGI starts its answer with whatever the guest had in the place of the protocol.
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) [A-Z]")


@pytest.mark.configurations("combined")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(message=_message)
def test_any_bytes_at_all(running: Running, nova: Nova, message: bytes) -> None:
    """W-2, W-7, W-10: never 5xx, never a hang, never another guest's identity; the server lives on."""
    nova.reset()
    with running.connect() as connection:
        connection.send(message)
        answer = _read(connection)
    for request in nova.requests:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
        assert [pair for pair in headers if pair[0].lower().startswith("x-")] == ADA.to_nova()
    assert [other for other in _OTHERS if other in answer and other not in message] == []
    assert b": unexpected" not in running.log.read_bytes()
    statuses = _STATUS.findall(answer)
    assert [status for status in statuses if status >= b"500" and status not in _ALLOWED] == [], answer
    if not nova.requests:
        assert [status for status in statuses if b"200" <= status < b"400"] == [], answer


@pytest.mark.configurations("combined")
def test_and_it_still_answers(running: Running, nova: Nova) -> None:
    """After all of the above."""
    assert running.ask("/still", guest=CYD).status == 200


def _read(connection: Connection) -> bytes:
    """What comes; once the server is quiet, the guest says that it has no more to say."""
    connection.sock.settimeout(_QUIET)
    parts = []
    try:
        while part := connection.sock.recv(65536):
            parts.append(part)
    except TimeoutError:
        connection.sock.settimeout(10)
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_WR)
        parts.append(connection.rest())
    except ConnectionResetError:
        pass
    return b"".join(parts)
