"""W-9: the limits on target, headers and body, and who says so."""

import contextlib

import pytest

from .nova import Nova
from .running import Running

KIB = 1024


def test_w9_30_kib_of_headers_pass(running: Running, nova: Nova) -> None:
    """W-9: in one header, or in many."""
    one = [("X-Large", "a" * (30 * KIB))]
    many = [(f"X-Large-{number}", "a" * 980) for number in range(30)]
    for headers in (one, many):
        assert running.ask(headers=headers).status == 200


def test_w9_a_large_header_arrives_whole(running: Running, nova: Nova) -> None:
    """W-9: one that mdmw passes on."""
    value = "curl/" + "a" * (20 * KIB)
    assert running.ask(headers=[("User-Agent", value)]).status == 200
    assert nova.only().all("User-Agent") == [value]


@pytest.mark.parametrize("kib", [33, 40])
def test_w9_more_than_32_kib_of_headers_are_431(running: Running, nova: Nova, kib: int) -> None:
    """W-9: 431 in mdmw's words up to what each server lets through."""
    many = [(f"X-Large-{number}", "a" * (KIB - 20)) for number in range(kib)]
    reply = running.ask(headers=many)
    assert reply.status == 431
    assert reply.header("X-Openstack-Request-Id")
    assert nova.requests == []


def test_w9_one_header_above_the_limit(running: Running, nova: Nova) -> None:
    """W-9: gunicorn says 431 itself, in words of its own."""
    reply = running.ask(headers=[("X-Large", "a" * (33 * KIB))])
    assert reply.status == 431
    assert nova.requests == []


@pytest.mark.configurations("guest-facing")
def test_w9_far_more_than_the_limit(running: Running, nova: Nova) -> None:
    """W-9: what a server does not even read: an answer of its own, or a closed connection."""
    with running.connect() as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(running.compose(headers=[("X-Large", "a" * (8 * KIB))] * 300))
        answer = connection.rest()
    assert answer == b"" or answer.split(b" ", 2)[1] in (b"431", b"400", b"413"), answer[:100]
    assert nova.requests == []


def test_w9_8_kib_of_request_line_pass(running: Running, nova: Nova) -> None:
    """W-9: up to the 8190 bytes that gunicorn can be told."""
    target = "/" + "a" * (8190 - len("GET / HTTP/1.1"))
    assert running.ask(target).status == 200
    assert nova.only().target == target.encode()


@pytest.mark.parametrize("length", [8300, 12_000])
def test_w9_more_than_8_kib_of_target_are_414(running: Running, nova: Nova, length: int) -> None:
    """W-9: whoever says it."""
    assert running.ask("/" + "a" * length).status == 414
    assert nova.requests == []


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_w9_a_body_above_64_kib_is_413(running: Running, nova: Nova, framing: str) -> None:
    """W-9: and nothing reaches Nova."""
    body = b"a" * (64 * KIB + 1)
    headers = []
    if framing == "chunked":
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        headers = [("Transfer-Encoding", "chunked")]
    wanted = 411 if framing == "chunked" and not running.traits.chunked_requests else 413
    reply = running.ask("/p", "POST", headers, body)
    assert reply.status == wanted
    assert nova.requests == []


def test_w9_a_promised_body_above_the_limit_is_413_at_once(running: Running, nova: Nova) -> None:
    """W-9: without waiting for it; waitress reads it first, and has a limit of its own."""
    with running.connect() as connection:
        connection.send(running.compose("/p", "POST", [("Content-Length", "1000000000")]))
        assert connection.reply("POST").status == 413
    assert nova.requests == []


def test_w9_expect_100_continue(running: Running, nova: Nova) -> None:
    """W-9: answered here, before the body comes; a server that does not makes the guest wait a second."""
    message = running.compose("/e", "POST", [("Expect", "100-continue"), ("Content-Length", "3")])
    with running.connect() as connection:
        connection.send(message)
        if running.traits.answers_expect:
            interim = b""
            while b"\r\n\r\n" not in interim:
                interim += connection.sock.recv(1)
            assert interim.startswith(b"HTTP/1.1 100 ")
        connection.send(b"abc")
        assert connection.reply("POST").status == 200
    assert nova.only().body == b"abc"
    assert nova.only().all("Expect") == []
