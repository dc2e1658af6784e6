"""Many connections, slow ones, kept ones."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from .nova import Nova
from .pipelines import ADA, GUESTS
from .running import Running

STORM = 400
AT_ONCE = 3.0  # seconds within which a request is answered that waits for nobody


def test_spec_1_9_400_guests_at_once(running: Running, nova: Nova) -> None:
    """Spec 1.9: 400 connections while Nova takes 50 ms: every guest gets its own answer."""
    nova.delay = 0.05
    go = threading.Event()

    def boot(number: int) -> None:
        guest = GUESTS[number % len(GUESTS)]
        go.wait()
        reply = running.ask(f"/boot/{number}", guest=guest)
        who = guest.network if running.pipeline == "proxy" else guest.instance
        assert (reply.status, reply.body) == (200, f"/boot/{number} for {who} {guest.address}".encode())

    with ThreadPoolExecutor(STORM) as pool:
        guests = [pool.submit(boot, number) for number in range(STORM)]
        go.set()
        for future in guests:
            future.result()
    assert len(nova.requests) == STORM


def test_w11_slow_guests_hold_up_nobody(running: Running, nova: Nova) -> None:
    """W-8, W-9: requests come byte by byte, a response is read slowly; others are served meanwhile."""
    large = bytes(4 * 1024 * 1024)
    nova.answers[b"/large"] = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(large), large)
    message = running.compose("/trickled", "POST", body=b"abcdef")
    message = message.replace(b"\r\n\r\n", b"\r\nX-Last: 1\r\n\r\n")
    with running.connect() as reader, running.connect() as writer:
        reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
        reader.send(running.compose("/large"))
        for number, position in enumerate(range(len(message))):
            writer.send(message[position : position + 1])
            if number % 100 == 0:
                started = time.monotonic()
                assert running.ask("/quick").status == 200
                assert time.monotonic() - started < AT_ONCE
                reader.sock.recv(1024)
        assert writer.reply("POST").status == 200
        size = len(reader.rest())
    assert size > len(large) - 100 * 1024
    trickled = [request for request in nova.requests if request.target == b"/trickled"]
    assert [request.body for request in trickled] == [b"abcdef"]


def test_idle_connections_hold_up_nobody(running: Running, nova: Nova) -> None:
    """150 guests that connect and say nothing, or half a request line; uWSGI has 200 threads for them."""
    connections = [running.connect() for _ in range(150)]
    try:
        for connection in connections[:50]:
            connection.send(b"GET /half")
        started = time.monotonic()
        assert running.ask("/quick").status == 200
        assert time.monotonic() - started < AT_ONCE
    finally:
        for connection in connections:
            connection.sock.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_w11_keep_alive(running: Running, nova: Nova, method: str) -> None:
    """W-11: three requests on one connection; or the server closes it, having said so."""
    body = b"abc" if method == "POST" else b""
    with running.connect() as connection:
        for number in range(3):
            connection.send(running.compose(f"/{number}", method, body=body, close=False))
            reply = connection.reply(method)
            assert reply.status == 200
            if not running.traits.keep_alive:
                assert reply.header("Connection") == "close"
                assert connection.is_closed()
                return
            assert reply.header("Connection") in (None, "keep-alive")
    assert [request.target for request in nova.requests] == [b"/0", b"/1", b"/2"]
    assert all(request.body == body for request in nova.requests)


def test_w11_pipelined_requests_are_answered_in_order(running: Running, nova: Nova) -> None:
    """W-11: two requests in one packet."""
    with running.connect() as connection:
        connection.send(running.compose("/first", close=False) + running.compose("/second"))
        replies = connection.rest()
    assert b"/first for" in replies
    if running.traits.keep_alive:
        assert replies.index(b"/first for") < replies.index(b"/second for")
    else:
        assert b"/second for" not in replies


def test_w11_one_connection_one_guest(running: Running, nova: Nova) -> None:
    """What one request said of its guest is not there for the next on that connection."""
    if not running.traits.keep_alive:
        pytest.skip("closes after each answer")
    with running.connect() as connection:
        connection.send(running.compose("/a", headers=[("User-Agent", "a"), ("Accept", "b")], close=False))
        assert connection.reply().status == 200
        connection.send(running.compose("/b", close=False))
        assert connection.reply().status == 200
    assert nova.requests[1].all("User-Agent") == nova.requests[1].all("Accept") == []


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_w11_close(running: Running, nova: Nova, version: bytes) -> None:
    """W-11: `Connection: close`, and HTTP/1.0 without anything."""
    message = running.compose("/c", close=version == b"HTTP/1.1").replace(b"HTTP/1.1", version, 1)
    with running.connect() as connection:
        connection.send(message)
        assert connection.reply().status == 200
        assert connection.is_closed()


def test_a_guest_that_goes_away_is_forgotten(running: Running, nova: Nova) -> None:
    """Connections cut at any point leave the server as it was."""
    message = running.compose("/gone", "POST", body=b"abcdef", guest=ADA)
    for cut in (1, 20, len(message) - 8, len(message) - 3, len(message)):
        with running.connect() as connection:
            connection.send(message[:cut])
            if cut == len(message):
                _wait_for(lambda: nova.requests)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert [request.body for request in nova.requests] == [b"abcdef"]
    assert running.ask("/after").status == 200


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
