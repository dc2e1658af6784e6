"""`requests` over our own exchanges: what goes out, what comes back, and when it ends."""

import math
import threading
import time

import pytest
import requests
from peers import answers, chunked, echo, once, response, silent

from mdmw.errors import Unavailable
from mdmw.upstream import transport
from mdmw.upstream.exchange import BUFFER_LIMIT, Limits


@pytest.fixture
def session():
    """A session; its kept connections are closed after the test."""
    made = transport.session(Limits(read_timeout=5.0, total_timeout=5.0))
    yield made
    for upstream in made.get_adapter("http://")._upstreams.values():
        for idle in upstream._idle.values():
            while idle:
                idle.pop().close()


def test_a_request_and_its_answer(peers, session):
    peer = peers.tcp(
        answers(response("201 Created", b'{"a": 1}', "X-Thing: one", "Content-Type: text/plain"))
    )
    answer = session.post(f"{peer.address}/a%3Ab/c?d=%2F&e", data="body", headers={"X-Mine": b"two"})
    assert (answer.status_code, answer.reason, answer.headers["x-thing"]) == (201, "Created", "one")
    assert answer.json() == {"a": 1}
    assert answer.url == f"{peer.address}/a%3Ab/c?d=%2F&e"
    (request,) = peer.requests
    assert request.line == "POST /a%3Ab/c?d=%2F&e HTTP/1.1"
    assert request.body == b"body"
    assert request.value("X-Mine") == "two"
    assert request.value("Content-Length") == "4"
    assert request.value("Host") == peer.address.authority
    assert request.value("Accept-Encoding") == "identity"


def test_connections_are_kept(peers, session):
    peer = peers.tcp(echo)
    for _ in range(3):
        assert session.get(f"{peer.address}/").ok
    assert peer.connections == 1


def test_a_long_body_is_read_whole(peers, session):
    body = b"x" * (BUFFER_LIMIT * 2)
    peer = peers.tcp(answers(chunked(body[:BUFFER_LIMIT], body[BUFFER_LIMIT:])))
    assert session.get(f"{peer.address}/").content == body
    assert session.get(f"{peer.address}/").content == body
    assert peer.connections == 1


def test_a_body_without_end_is_given_up(peers, session, monkeypatch):
    monkeypatch.setattr(transport, "MAX_BODY", BUFFER_LIMIT + 1)
    peer = peers.tcp(answers(response("200 OK", b"x" * (BUFFER_LIMIT * 8))))
    with pytest.raises(Unavailable, match=f"an answer of more than {BUFFER_LIMIT + 1} bytes"):
        session.get(f"{peer.address}/")


def test_a_long_body_that_is_cut(peers, session):
    peer = peers.tcp(once(response("200 OK", b"x" * BUFFER_LIMIT * 8)[:-1]))
    with pytest.raises(Unavailable, match="broke off its body"):
        session.get(f"{peer.address}/")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Again", "308 Moved"])
def test_a_redirect_leads_nowhere_by_itself(peers, session, status):
    """R-16: a token must not follow."""
    peer = peers.tcp(answers(response(status, b"", "Location: http://192.0.2.1/")))
    assert session.get(f"{peer.address}/", allow_redirects=False).status_code == int(status[:3])


def test_no_cookie_is_kept(peers, session):
    peer = peers.tcp(answers(response("200 OK", b"", "Set-Cookie: a=b")))
    session.get(f"{peer.address}/")
    session.get(f"{peer.address}/")
    assert peer.requests[1].value("Cookie") is None


def test_faults_are_unavailable(peers, session):
    """Also what would be a 502 or 504 of Nova."""
    for peer in (peers.tcp(once(b"")), peers.tcp(once(b"nonsense")), peers.tcp(once(response()[:-3]))):
        for method in ("GET", "POST"):
            with pytest.raises(Unavailable):
                session.request(method, f"{peer.address}/")
    with pytest.raises(Unavailable, match="no connection to"):
        session.get(f"{peers.refusing()}/")


@pytest.mark.parametrize("url", ["http://h:99999/", "http://h:x/", "http:///"])
def test_an_address_that_is_none(session, url):
    with pytest.raises((Unavailable, requests.RequestException)):
        session.get(url)


def test_a_certificate_that_vanished(peers, session, tmp_path):
    """It was there at load."""
    with pytest.raises(Unavailable, match=r"no connection to https://.*: a certificate cannot be read: "):
        session.get("https://127.0.0.1:1/", verify=str(tmp_path / "ca.pem"))


def test_within_bounds_all_exchanges_together(peers, session):
    peer = peers.tcp(silent)
    began = time.monotonic()
    with transport.within(0.3):
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"did not answer in time|no connection"):
                session.get(f"{peer.address}/")
        assert transport.time_left() == 0.0
    assert 0.25 < time.monotonic() - began < 4
    assert transport.time_left() == math.inf


def test_within_another_the_shorter_one_counts():
    with transport.within(1.0):
        with transport.within(60.0):
            assert transport.time_left() <= 1.0
        with transport.within(0.1):
            assert transport.time_left() <= 0.1
        assert 0.5 < transport.time_left() <= 1.0


def test_within_is_the_thread_s_own():
    left = []
    with transport.within(1.0):
        thread = threading.Thread(target=lambda: left.append(transport.time_left()))
        thread.start()
        thread.join()
    assert left == [math.inf]
