"""Spec 1.6: what a guest sees of Nova's statuses, and of Nova's absence."""

import pytest

from .nova import Cut, Nova
from .running import Running

_STATUSES = (
    *(200, 201, 202, 203, 204, 205, 206, 207, 226, 299),
    *(300, 301, 302, 303, 304, 307, 308),
    *(400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418),
    *(421, 422, 426, 428, 429, 431, 451, 499),
    *(500, 501, 502, 503, 504, 505, 507, 511, 599),
)
_BODILESS = (204, 304)
NOVAS = b"words of Nova"


def _says(status: int) -> bytes:
    if status in _BODILESS:
        return b"HTTP/1.1 %d Odd Reason\r\n\r\n" % status
    return b"HTTP/1.1 %d Odd Reason\r\nContent-Type: text/x-nova\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(NOVAS),
        NOVAS,
    )


@pytest.mark.configurations("to-nova")
def test_spec_1_6_statuses_of_nova(running: Running, nova: Nova) -> None:
    """2xx, 304 and 4xx pass with Nova's words, redirects are 502, 403 and 5xx have words of ours."""
    for status in _STATUSES:
        target = f"/{status}"
        nova.answers[target.encode()] = _says(status)
        reply = running.ask(target)
        wanted = 502 if 300 <= status < 400 and status != 304 else status
        ours = wanted >= 500 or wanted == 403
        assert (reply.status, reply.complete) == (wanted, True), status
        if status in _BODILESS:
            assert reply.body == b"", status
        elif ours:
            assert NOVAS not in reply.body, status
            assert str(wanted).encode() in reply.body, status
            assert reply.header("Content-Type") == "text/plain; charset=UTF-8", status
        elif status != 205:
            assert reply.body == NOVAS, status
            assert reply.header("Content-Type") == "text/x-nova", status
        assert reply.header("Location") is None
        assert reply.header("Retry-After") == ("1" if wanted == 503 else None), status
    assert len(nova.requests) == len(_STATUSES)


@pytest.mark.configurations("guest-facing")
def test_spec_1_6_statuses_of_the_agent(running: Running, nova: Nova) -> None:
    """The proxy passes whatever the agent says."""
    if running.pipeline != "proxy":
        pytest.skip("of the proxy")
    for status in _STATUSES:
        target = f"/{status}"
        nova.answers[target.encode()] = _says(status)
        reply = running.ask(target)
        assert (reply.status, reply.complete) == (status, True), status
        if status != 205:
            assert reply.body == (b"" if status in _BODILESS else NOVAS), status


@pytest.mark.configurations("to-nova")
def test_spec_1_6_a_303_with_a_location(running: Running, nova: Nova) -> None:
    """A redirect is never followed, nor passed on."""
    nova.answers[b"/r"] = b"HTTP/1.1 302 Found\r\nLocation: /latest/\r\nContent-Length: 0\r\n\r\n"
    reply = running.ask("/r")
    assert (reply.status, reply.header("Location")) == (502, None)
    assert len(nova.requests) == 1


@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        ("GET", b"", 503),
        ("POST", b"", 502),
        pytest.param("GET", Cut(b"HTTP/1.1 200 O"), 503),
        pytest.param("GET", Cut(b"HTTP/1.1 200 OK\r\nContent-Le"), 503),
        ("GET", Cut(b"garbage\r\n\r\n"), 502),
        ("GET", Cut(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), 502),
    ],
)
def test_spec_1_6_a_nova_that_breaks(
    running: Running, nova: Nova, method: str, answer: bytes, status: int
) -> None:
    """A broken upstream is 5xx in the words of mdmw, with Retry-After where trying again may help."""
    nova.answers[b"/broken"] = answer
    reply = running.ask("/broken", method)
    assert reply.status == status
    assert reply.header("Retry-After") == ("1" if status == 503 else None)
    assert b"req-" in reply.body


@pytest.mark.configurations("to-nova")
def test_spec_1_6_a_status_that_is_none(running: Running, nova: Nova) -> None:
    """Spec 1.6: what is not a status of HTTP is 502."""
    nova.answers[b"/999"] = Cut(b"HTTP/1.1 999 X\r\n\r\n")
    assert running.ask("/999").status == 502


def test_w18_errors_are_json_for_those_who_want_it(running: Running, nova: Nova) -> None:
    """W-18."""
    nova.answers[b"/broken"] = Cut(b"garbage\r\n\r\n")
    reply = running.ask("/broken", headers=[("Accept", "application/json")])
    assert reply.header("Content-Type") == "application/json"
    assert reply.body.startswith(b"{")
    assert reply.all("Content-Length") == [str(len(reply.body))]
