"""One request for one answer, against real peers that behave (S-4, W-6, W-7, W-15 to W-17)."""

import contextlib
import os
import threading

import pytest
from exchanging import ask, facing, free_slots
from hypothesis import given
from hypothesis import strategies as st
from peers import answers, chunked, echo, once, response, then_hold

from mdmw.errors import BackendError
from mdmw.upstream.exchange import BUFFER_LIMIT, Stream

TRANSPORTS = pytest.mark.parametrize("transport", ["unix", "tcp"])


@TRANSPORTS
def test_status_headers_and_body_come_back(peers, upstream, transport):
    """W-12: bytes are bytes, also when they are no text."""
    body = bytes(range(256))
    peer = peers.of(transport, answers(response("299 Fine enough", body, "Content-Type: a/b", "X-Y: z")))
    answer = upstream(peer).exchange("GET", "/x", [])
    assert (answer.status, answer.reason, answer.body, answer.length) == (299, "Fine enough", body, 256)
    assert ("Content-Type", "a/b") in answer.headers
    assert ("X-Y", "z") in answer.headers


@TRANSPORTS
@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a%3Fb%2Fc",
        "/..",
        "/a/../b/./c",
        "//x",
        "/a?b=c&d?e",
        "/%00%0a",
        "/\xe9\xff",
        "/a#b",
        "/%zz",
        "/;a,b",
    ],
)
def test_the_target_goes_out_byte_for_byte(peers, upstream, transport, target):
    """W-7: the client library neither decodes, encodes nor normalises."""
    peer = peers.of(transport, echo)
    ask(upstream(peer), target=target)
    assert peer.requests[0].line == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "X-Y!"]
)
def test_any_method(peers, upstream, method):
    """W-6: any method is relayed unchanged."""
    peer = peers.unix(echo)
    ask(upstream(peer), method)
    assert peer.requests[0].method == method


@given(st.binary(max_size=300))
def test_a_body_arrives_whole(body):
    """W-8: nothing is lost, and the length is exact."""
    with facing("unix", echo) as (asked, peer):
        ask(asked, "POST", body=body)
        assert peer.requests[0].body == body
        assert peer.requests[0].value("Content-Length") == str(len(body))


def test_a_body_of_the_limit(peers, upstream):
    """W-9: 64 KiB go through."""
    body = os.urandom(65536)
    peer = peers.tcp(answers(response()))
    ask(upstream(peer), "POST", body=body)
    assert peer.requests[0].body == body


def test_own_headers_only(peers, upstream):
    """W-1: what is sent is what was given, a Host, and a length where there may be a body."""
    peer = peers.tcp(answers(response()))
    asked = upstream(peer)
    ask(asked, headers=[("A", "b")])
    ask(asked, "POST", headers=[("A", "b")], body=b"c")
    authority = peer.address.authority
    assert peer.requests[0].headers == [("Host", authority), ("A", "b")]
    assert peer.requests[1].headers == [("Host", authority), ("A", "b"), ("Content-Length", "1")]


def test_the_host_on_a_unix_socket_is_a_dummy(peers, upstream):
    """Spec 1.1, H2."""
    peer = peers.unix(answers(response()))
    ask(upstream(peer))
    assert peer.requests[0].values("Host") == ["169.254.169.254"]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"])
def test_redirects_are_not_followed(peers, upstream, status):
    """S-4: a redirect is an answer like any other here."""
    elsewhere = peers.tcp(echo)
    location = f"Location: http://{elsewhere.address.authority}/stolen"
    peer = peers.tcp(answers(response(status, b"", location)))
    assert ask(upstream(peer))[0] == int(status[:3])
    assert elsewhere.connections == 0
    assert len(peer.requests) == 1


def test_nothing_comes_from_the_environment(peers, upstream, monkeypatch, tmp_path):
    """S-4: no proxy of the environment, no .netrc, no user information."""
    proxy = peers.tcp(echo)
    peer = peers.tcp(answers(response()))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{proxy.address.authority}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "")
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login operator password hunter2\nmachine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    assert ask(upstream(peer))[0] == 200
    assert proxy.connections == 0
    assert [name for name, _ in peer.requests[0].headers] == ["Host"]


# --- lengths and framing ----------------------------------------------------------------


def test_an_empty_body(peers, upstream):
    """W-15: an empty 200 is legal and meaningful."""
    answer = upstream(peers.unix(answers(response("200 OK", b"")))).exchange("GET", "/", [])
    assert (answer.status, answer.body, answer.length) == (200, b"", 0)


def test_head_keeps_the_length_that_was_reported(peers, upstream):
    """W-16."""
    peer = peers.unix(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4711\r\n\r\n"))
    asked = upstream(peer)
    for _ in range(2):
        answer = asked.exchange("HEAD", "/", [])
        assert (answer.body, answer.length) == (b"", 4711)
    assert peer.connections == 1


@pytest.mark.parametrize("length", ["", "-1", "1.5", "\xb2", "9" * 5000, "0x10"])
def test_a_senseless_length_of_head_is_unknown_or_an_error(peers, upstream, length):
    peer = peers.unix(answers(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode("latin-1")))
    asked = upstream(peer)
    with contextlib.suppress(BackendError):
        assert asked.exchange("HEAD", "/", []).length is None
    assert free_slots(asked) == 128


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_bodiless_statuses(peers, upstream, status):
    """W-16: 204 and 304 have no body, and no length is invented."""
    peer = peers.unix(answers(f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode()))
    asked = upstream(peer)
    for _ in range(2):
        answer = asked.exchange("GET", "/", [])
        assert (answer.body, answer.length) == (b"", None)
    assert peer.connections == 1


def test_chunked_is_decoded(peers, upstream):
    peer = peers.unix(answers(chunked(b"one ", b"two ", b"three")))
    asked = upstream(peer)
    for _ in range(2):
        answer = asked.exchange("GET", "/", [])
        assert (answer.body, answer.length) == (b"one two three", 13)
    assert peer.connections == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_without_a_length_the_body_ends_with_the_connection(peers, upstream, version):
    peer = peers.unix(once(f"HTTP/{version} 200 OK\r\nConnection: close\r\n\r\nall of it".encode()))
    asked = upstream(peer)
    for _ in range(2):
        assert asked.exchange("GET", "/", []).body == b"all of it"
    assert peer.connections == 2


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints", "199 What"])
@pytest.mark.parametrize("times", [1, 3])
def test_interim_answers_are_skipped(peers, upstream, interim, times):
    """RFC 9110 15.2: a client that asked for none ignores them; the final answer is ours."""
    early = f"HTTP/1.1 {interim}\r\nLink: </x>\r\n\r\n".encode() * times
    peer = peers.unix(answers(early + response("200 OK", b"final")))
    asked = upstream(peer)
    for _ in range(2):
        assert ask(asked) == (200, {"Content-Length": "5"}, b"final")


def test_a_late_final_answer_is_not_the_next_guests(peers, upstream):
    """An interim answer in a packet of its own: the final one still belongs to its request."""
    go_on = threading.Event()

    def script(conversation):
        number = 0
        while conversation.request():
            conversation.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            conversation.wait_for(go_on)
            conversation.send(response("200 OK", b"answer %d" % number))
            number += 1

    asked = upstream(peers.unix(script))
    threading.Timer(0.05, go_on.set).start()
    assert ask(asked)[2] == b"answer 0"
    assert ask(asked)[2] == b"answer 1"


# --- large bodies -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [BUFFER_LIMIT - 1, BUFFER_LIMIT])
def test_up_to_the_limit_a_body_is_read_whole(peers, upstream, size):
    """W-17: a slow guest then holds no connection."""
    body = os.urandom(size)
    asked = upstream(peers.unix(answers(response("200 OK", body))))
    assert asked.exchange("GET", "/", []).body == body
    assert free_slots(asked) == 128


@pytest.mark.parametrize("size", [BUFFER_LIMIT + 1, 2 * BUFFER_LIMIT, 3 * BUFFER_LIMIT + 17])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_above_it_is_streamed(peers, upstream, size, framing):
    """W-17: every byte arrives in every framing; the slot is held until the stream is closed."""
    body = os.urandom(size)
    if framing == "length":
        script = answers(response("200 OK", body))
    elif framing == "chunked":
        script = answers(chunked(*(body[start : start + 9999] for start in range(0, size, 9999))))
    else:
        script = once(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
    asked = upstream(peers.unix(script), max_connections=3)
    answer = asked.exchange("GET", "/", [])
    streamed = isinstance(answer.body, Stream)
    if streamed:
        assert free_slots(asked) == 2
        assert answer.length == (size if framing == "length" else None)
    assert (b"".join(answer.body) if streamed else answer.body) == body
    assert streamed == (size > BUFFER_LIMIT + 1) or framing != "length"
    answer.close()
    answer.close()
    assert free_slots(asked) == 3


def test_a_stream_read_to_its_end_keeps_its_connection(peers, upstream):
    peer = peers.unix(answers(response("200 OK", bytes(3 * BUFFER_LIMIT))))
    asked = upstream(peer)
    for _ in range(3):
        assert len(ask(asked)[2]) == 3 * BUFFER_LIMIT
    assert peer.connections == 1


def test_a_stream_that_is_given_up_loses_its_connection(peers, upstream):
    """What is still on the way must not become the next answer."""
    peer = peers.unix(answers(response("200 OK", bytes(9 * BUFFER_LIMIT))))
    asked = upstream(peer, max_connections=1)
    for _ in range(3):
        answer = asked.exchange("GET", "/", [])
        next(iter(answer.body))
        answer.close()
    assert peer.connections == 3
    assert free_slots(asked) == 1


def test_read_gives_up_the_rest(peers, upstream):
    peer = peers.unix(answers(response("500 Broken", b"because " * BUFFER_LIMIT)))
    asked = upstream(peer, max_connections=1)
    assert asked.exchange("GET", "/", []).read(7) == b"because"
    assert free_slots(asked) == 1


# --- kept connections -------------------------------------------------------------------


def test_connections_are_kept_for_get_and_head(peers, upstream):
    """W-11."""
    peer = peers.tcp(answers(response("200 OK", b"")))
    asked = upstream(peer)
    for method in ("GET", "HEAD", "GET"):
        ask(asked, method)
    assert peer.connections == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_else_goes_out_on_a_kept_connection(peers, upstream, method):
    """S-4: it could be dead, and then nobody knows whether the request was carried out."""
    peer = peers.tcp(answers(response("200 OK", b"")))
    asked = upstream(peer)
    ask(asked)
    ask(asked, method)
    assert peer.connections == 2


def test_kept_connections_are_bounded(peers, upstream):
    """A guest that sends POST after POST must not use up the descriptors of the process."""
    peer = peers.unix(answers(response()))
    asked = upstream(peer, max_connections=3)
    for _ in range(20):
        ask(asked, "POST")
    peer.wait_until(lambda peer: peer.connections == 20 and peer.closed >= 17)


def test_what_stays_idle_too_long_is_closed(peers, upstream):
    """A burst leaves connections behind; later requests clear them away."""
    peer = peers.unix(answers(response()))
    asked = upstream(peer, idle_timeout=0.05)
    for _ in range(10):
        ask(asked, "POST")
    threading.Event().wait(0.06)
    for _ in range(10):
        ask(asked)
    peer.wait_until(lambda peer: peer.closed >= 10)
    assert ask(asked)[0] == 200


def test_an_old_connection_is_not_used(peers, upstream):
    peer = peers.unix(answers(response()))
    asked = upstream(peer, idle_timeout=0)
    ask(asked)
    ask(asked)
    assert peer.connections == 2


def test_connection_close_is_obeyed(peers, upstream):
    peer = peers.unix(once(response("200 OK", b"x", "Connection: close")))
    asked = upstream(peer)
    for _ in range(3):
        assert ask(asked)[2] == b"x"
    assert peer.connections == 3


def test_many_threads_each_get_their_own_answer(peers, upstream):
    """Kept connections are never shared by two requests at once."""
    asked = upstream(peers.unix(echo), max_connections=8)
    wrong = []

    def work(worker):
        for number in range(40):
            target = f"/{worker}/{number}"
            if target.encode() not in ask(asked, target=target)[2]:
                wrong.append(target)

    crowd = [threading.Thread(target=work, args=(worker,)) for worker in range(12)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert not wrong
    assert free_slots(asked) == 8


def test_a_peer_that_speaks_out_of_turn_is_not_believed(peers, upstream):
    """More bytes than the length: they must not become the answer to the next request."""
    sent = threading.Event()

    def script(conversation):
        while conversation.request():
            conversation.send(response("200 OK", b"mine"))
            conversation.send(response("200 OK", b"yours"))
            sent.set()

    asked = upstream(peers.unix(script, echo))
    assert ask(asked)[2] == b"mine"
    assert sent.wait(10)
    assert b"yours" not in ask(asked)[2]


def test_a_head_with_more_than_it_promised_holds_nothing_up(peers, upstream):
    asked = upstream(peers.unix(then_hold(response("200 OK", b"four") + b" more")))
    assert ask(asked)[2] == b"four"
