"""Peers that misbehave: which error comes out, how soon, and that no slot is ever lost (S-4, 1.6)."""

import contextlib
import threading
import time

import pytest
from exchanging import SHORT, Asking, ask, facing, free_slots
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import (
    Gate,
    answers,
    chunked,
    dripping,
    echo,
    hang_up,
    once,
    reset,
    response,
    silent,
    then_hold,
)

from mdmw.errors import BackendError, BackendLost, BackendSlow, Overloaded, RequestError, Unavailable
from mdmw.upstream import connection
from mdmw.upstream.exchange import BUFFER_LIMIT

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
WHOLE = HEAD + b"Content-Length: 10\r\n\r\n0123456789"
TRANSPORTS = pytest.mark.parametrize("transport", ["unix", "tcp"])

# Every way to end a response early: after nothing, in the status line, after it, in a header, and so on.
CUT = [0, 5, 12, 16, 17, 20, 30, len(HEAD), len(HEAD) + 5, len(WHOLE) - 11, len(WHOLE) - 10, len(WHOLE) - 1]


@TRANSPORTS
@pytest.mark.parametrize("length", CUT)
def test_cut_anywhere_get_may_be_asked_again(peers, upstream, transport, length):
    """1.6: 503 for GET and HEAD, since cloud-init gives up for good on 502; never half an answer."""
    asked = upstream(peers.of(transport, once(WHOLE[:length])))
    with pytest.raises(Unavailable):
        ask(asked)
    assert free_slots(asked) == 128


@pytest.mark.parametrize("length", CUT)
def test_cut_anywhere_the_outcome_of_post_is_unknown(peers, upstream, length):
    """1.6: 502 for the others, and never sent twice."""
    peer = peers.unix(once(WHOLE[:length]), echo)
    with pytest.raises(BackendLost):
        ask(upstream(peer), "POST", body=b"secret")
    assert len(peer.requests) == 1


@given(st.integers(0, len(WHOLE) - 1), st.booleans(), st.sampled_from(["GET", "POST"]))
@settings(max_examples=40)
def test_half_an_answer_is_never_an_answer(length, with_reset, method):
    with facing("tcp", once(WHOLE[:length], reset=with_reset)) as (asked, _):
        with pytest.raises(RequestError):
            ask(asked, method)
        assert free_slots(asked) == 128


def test_headers_cut_without_a_length(peers, upstream):
    """The end of the connection is not the end of the headers: never 200 without a body."""
    asked = upstream(peers.unix(once(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n")))
    with pytest.raises(Unavailable):
        ask(asked)


@pytest.mark.parametrize("length", [1, BUFFER_LIMIT, BUFFER_LIMIT + 1, BUFFER_LIMIT + 65536])
def test_a_large_body_cut_early_is_not_complete(peers, upstream, length):
    """W-17: cut before streaming begins."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * BUFFER_LIMIT)
    asked = upstream(peers.unix(once(head + bytes(length))))
    with pytest.raises((Unavailable, BackendError)):
        ask(asked)
    assert free_slots(asked) == 128


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("with_reset", [False, True])
def test_a_stream_cut_in_the_middle_raises(peers, upstream, framing, with_reset):
    """W-17: the end of the iteration would say that this was all."""
    size = 8 * BUFFER_LIMIT
    data = response("200 OK", bytes(size)) if framing == "length" else chunked(bytes(size))
    asked = upstream(peers.tcp(once(data[: size // 2], reset=with_reset)))
    with pytest.raises((BackendError, Unavailable)):
        ask(asked)
    assert free_slots(asked) == 128


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 smtp ready\r\n\r\n",
        b"\x16\x03\x01\x00\x00\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"HTTP/1.1 1000 High\r\n\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(50_000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nBig: " + b"x" * 500_000 + b"\r\n\r\n",
        b"HTTP/1.1 " + b"x" * 500_000,
    ],
)
def test_garbage(peers, upstream, data):
    """1.6: what is not HTTP is a back end error, not a fault that goes away by itself."""
    asked = upstream(peers.unix(once(data)))
    with pytest.raises(BackendError):
        ask(asked)
    assert free_slots(asked) == 128


@pytest.mark.parametrize(
    "chunk", [b"zz\r\nx\r\n", b"-5\r\nhello\r\n", b"5\r\nhel", b"ffffffffffff\r\nx", b"\xb2\r\nx\r\n"]
)
def test_broken_chunks(peers, upstream, chunk):
    asked = upstream(peers.unix(once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)))
    with pytest.raises(RequestError):
        ask(asked)
    assert free_slots(asked) == 128


@given(st.binary(max_size=400))
@settings(max_examples=60)
def test_any_bytes_are_an_answer_or_a_known_error(data):
    for prefix in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        with facing("unix", once(prefix + data)) as (asked, _):
            with contextlib.suppress(RequestError):
                ask(asked)
            assert free_slots(asked) == 128


# --- time -------------------------------------------------------------------------------


def seconds(function, *args, **kwargs):
    began = time.monotonic()
    with pytest.raises(RequestError) as error:
        function(*args, **kwargs)
    return time.monotonic() - began, error.type


@TRANSPORTS
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_silent_peer(peers, upstream, transport, method):
    """1.6: 504 after the read timeout, not after the total one."""
    asked = upstream(peers.of(transport, silent), read_timeout=SHORT)
    took, error = seconds(ask, asked, method)
    assert error is BackendSlow
    assert SHORT <= took < 2
    assert free_slots(asked) == 128


@pytest.mark.parametrize("data", [b"", HEAD, WHOLE[:-3]], ids=["nothing", "half a head", "half a body"])
def test_a_peer_that_falls_silent(peers, upstream, data):
    asked = upstream(peers.unix(then_hold(data)), read_timeout=SHORT)
    assert seconds(ask, asked)[1] is BackendSlow
    assert free_slots(asked) == 128


@TRANSPORTS
def test_a_dripping_peer_gains_nothing(peers, upstream, transport):
    """Each byte comes in time, all of them would take 5 s: the total timeout ends it."""
    asked = upstream(peers.of(transport, dripping(WHOLE, 0.05)), read_timeout=1.0, total_timeout=2 * SHORT)
    took, error = seconds(ask, asked)
    assert error is BackendSlow
    assert 2 * SHORT <= took < 2


def test_a_peer_that_drips_interim_answers(peers, upstream):
    asked = upstream(peers.unix(dripping(b"HTTP/1.1 102 Wait\r\n\r\n" * 50, 0.002)), total_timeout=SHORT)
    assert seconds(ask, asked)[1] is BackendSlow


def test_a_stream_is_bounded_too(peers, upstream):
    """The total timeout goes on while a large body is streamed."""
    asked = upstream(
        peers.unix(then_hold(response("200 OK", bytes(9 * BUFFER_LIMIT))[: 8 * BUFFER_LIMIT])),
        read_timeout=SHORT,
    )
    answer = asked.exchange("GET", "/", [])
    with pytest.raises(BackendError):
        b"".join(answer.body)
    answer.close()
    assert free_slots(asked) == 128


def test_a_peer_that_does_not_read(peers, upstream):
    """Sending is bounded as well."""
    stop = threading.Event()
    asked = upstream(peers.unix(lambda conversation: conversation.wait_for(stop)), read_timeout=SHORT)
    took, error = seconds(ask, asked, "POST", body=bytes(8 << 20))
    stop.set()
    assert error is BackendSlow
    assert took < 2


def test_queueing_counts_against_the_total(peers, upstream):
    """A request never takes longer than its total timeout, wherever the time goes."""
    gate = Gate()
    asked = upstream(
        peers.unix(gate), max_connections=1, queue_timeout=5.0, total_timeout=SHORT, read_timeout=5
    )
    first = Asking(asked)
    gate.wait_for(1)
    took, error = seconds(ask, asked)
    assert SHORT <= took < 2
    assert issubclass(error, (Unavailable, BackendSlow))
    first.result()
    gate.open()


# --- retries ----------------------------------------------------------------------------


def served_once_then(what):
    """Answers one request on the connection, then does `what` to it."""

    def script(conversation):
        if conversation.request():
            conversation.send(response("200 OK", b"first"))
            what(conversation)

    return script


@TRANSPORTS
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("how", [hang_up, reset], ids=["close", "reset"])
def test_a_kept_connection_that_died_is_replaced_once(peers, upstream, transport, method, how):
    """S-4: it ends after the second request was read, before any byte of its answer."""
    peer = peers.of(transport, served_once_then(how), answers(response("200 OK", b"second")))
    asked = upstream(peer)
    ask(asked)
    assert ask(asked, method)[0] == 200
    assert peer.connections == 2
    assert len(peer.requests) == 3


def test_it_is_replaced_only_once(peers, upstream):
    peer = peers.unix(served_once_then(hang_up), hang_up, echo)
    asked = upstream(peer)
    ask(asked)
    with pytest.raises(Unavailable):
        ask(asked)
    assert peer.connections == 2


def test_an_answer_that_had_begun_is_not_asked_for_again(peers, upstream):
    """S-4: one byte of the answer is enough to know that the request was carried out."""

    def begin(conversation):
        if conversation.request():
            conversation.send(b"HTTP/1.1 200 O")

    peer = peers.unix(served_once_then(begin), echo)
    asked = upstream(peer)
    ask(asked)
    with pytest.raises(Unavailable):
        ask(asked)
    assert peer.connections == 1


def test_a_new_connection_that_dies_is_not_retried(peers, upstream):
    peer = peers.unix(hang_up, echo)
    with pytest.raises(Unavailable):
        ask(upstream(peer))
    assert peer.connections == 1


def test_a_slow_kept_connection_is_not_retried(peers, upstream):
    """Asking a slow service twice makes it slower."""
    peer = peers.unix(served_once_then(silent), echo)
    asked = upstream(peer, read_timeout=SHORT)
    ask(asked)
    with pytest.raises(BackendSlow):
        ask(asked)
    assert peer.connections == 1


@TRANSPORTS
@pytest.mark.parametrize("how", [hang_up, reset], ids=["close", "reset"])
def test_post_is_never_sent_twice(peers, upstream, transport, how):
    """S-4."""
    peer = peers.of(transport, how, echo)
    with pytest.raises(BackendLost):
        ask(upstream(peer), "POST", body=b"password")
    assert len(peer.requests) == 1
    assert peer.requests[0].body == b"password"


@TRANSPORTS
def test_closed_while_idle(peers, upstream, transport):
    """Noticed before anything is sent."""
    peer = peers.of(transport, once(response("200 OK", b"x")), echo)
    asked = upstream(peer)
    ask(asked)
    peer.wait_until(lambda peer: peer.closed == 1)
    assert ask(asked)[0] == 200
    assert len(peer.requests) == 2


# --- overload ---------------------------------------------------------------------------


def test_so_many_are_served_so_many_wait_the_rest_are_refused_at_once(peers, upstream):
    """1.6: overload is a 503 that comes at once, not a queue without end."""
    gate = Gate()
    asked = upstream(peers.unix(gate), max_connections=3, max_waiting=2)
    served = [Asking(asked) for _ in range(3)]
    gate.wait_for(3)
    waiting = [Asking(asked) for _ in range(2)]
    while len(asked._slots._waiting) < 2:
        threading.Event().wait(0.002)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(Overloaded) as error:
            ask(asked)
        assert error.value.retry_after == 1
    assert time.monotonic() - began < 1
    gate.open()
    assert [asking.result()[2] for asking in served + waiting] == [b"through"] * 5
    assert gate.most_inside == 3
    assert free_slots(asked) == 3


def test_waiting_ends(peers, upstream):
    gate = Gate()
    asked = upstream(peers.unix(gate), max_connections=1, queue_timeout=SHORT)
    first = Asking(asked)
    gate.wait_for(1)
    took, error = seconds(ask, asked)
    assert error is Overloaded
    assert SHORT <= took < 2
    gate.open()
    assert first.result()[0] == 200
    assert free_slots(asked) == 1


MISDEEDS = {
    "hangs up": hang_up,
    "resets": reset,
    "silent": silent,
    "garbage": once(b"garbage\r\n\r\n"),
    "half a head": once(HEAD),
    "half a body": once(WHOLE[:-1]),
    "reset in the body": once(WHOLE[:-1], reset=True),
    "half a stream": once(response("200 OK", bytes(8 * BUFFER_LIMIT))[: 4 * BUFFER_LIMIT]),
    "endless stream": then_hold(response("200 OK", bytes(8 * BUFFER_LIMIT))[: 4 * BUFFER_LIMIT]),
    "broken chunk": once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "drips": dripping(WHOLE, 0.05),
    "too many headers": once(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"),
    "early data": then_hold(WHOLE + WHOLE),
    "fine": answers(WHOLE),
    "large": answers(response("200 OK", bytes(2 * BUFFER_LIMIT))),
}


def test_no_slot_is_lost_whatever_a_peer_does(peers, upstream):
    """Each misdeed by itself, with each method; then the full capacity is there."""
    for name, script in MISDEEDS.items():
        asked = upstream(peers.unix(script), max_connections=4, read_timeout=0.03, total_timeout=0.06)
        for method in ("GET", "HEAD", "POST"):
            with contextlib.suppress(RequestError):
                ask(asked, method)
        assert free_slots(asked) == 4, name


@given(st.lists(st.tuples(st.sampled_from(sorted(MISDEEDS)), st.sampled_from(["GET", "POST"])), max_size=6))
@settings(max_examples=20)
def test_no_slot_is_lost_in_any_sequence(steps):
    scripts = [MISDEEDS[name] for name, _ in steps] or [hang_up]
    with facing("unix", *scripts, max_connections=2, read_timeout=0.03, total_timeout=0.06) as (asked, _):
        for _, method in steps:
            with contextlib.suppress(RequestError):
                ask(asked, method)
        assert free_slots(asked) == 2


def test_no_slot_is_lost_when_a_thread_is_stopped_from_outside(peers, upstream, monkeypatch):
    """gevent ends greenlets by exceptions that are no `Exception`."""

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    asked = upstream(peers.unix(echo), max_connections=1)
    for method in ("send", "receive"):
        with monkeypatch.context() as patched:
            patched.setattr(connection.Connection, method, killed)
            with pytest.raises(Killed):
                ask(asked)
        assert free_slots(asked) == 1
    assert ask(asked)[0] == 200


def test_errors_say_where_not_what(peers, upstream):
    """The log has the address and the cause; neither the request's headers nor its body."""
    for script in (hang_up, once(b"garbage\r\n\r\n"), once(HEAD)):
        peer = peers.unix(script)
        for method in ("GET", "POST"):
            with pytest.raises(RequestError) as error:
                ask(upstream(peer), method, headers=[("X-Instance-ID-Signature", "5ecret")], body=b"pa55word")
            assert peer.address.path in str(error.value)
            assert "5ecret" not in str(error.value)
            assert "pa55word" not in str(error.value)
