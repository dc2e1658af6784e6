"""How mdmw-node answers on one connection, whatever the application does (W-11, W-17, PEP 3333)."""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

gevent = pytest.importorskip("gevent")

from mdmw.errors import BackendLost  # noqa: E402
from mdmw.node.conversation import Conversation, Service  # noqa: E402
from mdmw.node.worker import shipped_config  # noqa: E402

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def talk(application: Callable[..., Iterable[bytes]], sent: bytes, *, is_ending: bool = False) -> bytes:
    """What a guest receives who sends all of `sent`, and then no more."""
    ours, its = socket.socketpair()
    service = Service(application, shipped_config(), patience=5.0, is_ending=is_ending)
    with ours:
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        conversation = Conversation(service, {}, False, its, ("10.0.0.5", 1234))
        thread = threading.Thread(target=conversation.run)
        thread.start()
        received = b""
        while data := ours.recv(65536):
            received += data
        thread.join()
        return received


def answering(status: str, headers: list[tuple[str, str]], parts: Iterable[bytes]) -> Callable[..., Any]:
    def application(_: object, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(status, headers)
        return parts

    return application


def split(answer: bytes) -> tuple[list[bytes], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n"), body


def test_a_body_of_known_length() -> None:
    lines, body = split(talk(answering("200 OK", [("Content-Length", "5")], [b"he", b"llo"]), GET))
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert b"Content-Length: 5" in lines
    assert b"Connection: keep-alive" in lines
    assert len([line for line in lines if line.startswith(b"Date: ")]) == 1
    assert body == b"hello"


def test_w17_a_body_of_unknown_length_is_chunked() -> None:
    lines, body = split(talk(answering("200 OK", [], [b"hello", b"", b"you"]), GET))
    assert b"Transfer-Encoding: chunked" in lines
    assert body == b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n"


def test_w17_to_http_1_0_the_end_of_the_connection_ends_the_body() -> None:
    lines, body = split(talk(answering("200 OK", [], [b"hello"]), OLD + OLD))
    assert b"Connection: close" in lines
    assert not [line for line in lines if line.startswith(b"Transfer-Encoding")]
    assert body == b"hello"


@pytest.mark.parametrize("sent", [LAST, OLD])
def test_w11_a_guest_that_wants_no_more(sent: bytes) -> None:
    answer = talk(answering("200 OK", [("Content-Length", "2")], [b"ok"]), sent + GET)
    assert answer.count(b"HTTP/1.1 200 OK") == 1


def test_w11_http_1_0_may_keep_the_connection() -> None:
    old = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = talk(answering("200 OK", [("Content-Length", "2")], [b"ok"]), old + old)
    assert answer.count(b"Connection: keep-alive") == 2


def test_w11_requests_in_one_packet_are_answered_in_order() -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return [environ["PATH_INFO"].encode()]

    sent = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5))
    bodies = [part[:2] for part in talk(application, sent).split(b"\r\n\r\n")[1:]]
    assert bodies == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_w11_a_worker_that_ends_says_that_an_answer_is_the_last() -> None:
    application = answering("200 OK", [("Content-Length", "2")], [b"ok"])
    answer = talk(application, GET + GET, is_ending=True)
    assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"Connection: close") == 1


def test_head_has_the_length_and_no_body() -> None:
    lines, body = split(talk(answering("200 OK", [("Content-Length", "5")], [b"hello"]), HEAD))
    assert b"Content-Length: 5" in lines
    assert body == b""


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body(status: str) -> None:
    answer = talk(answering(status, [("Content-Length", "5")], [b"hello"]), GET + LAST)
    assert answer.count(status.encode()) == 2
    assert b"hello" not in answer
    assert b"chunked" not in answer
    assert (b"Content-Length" in answer) == status.startswith("304")


def test_never_more_than_the_promised_length() -> None:
    answer = talk(answering("200 OK", [("Content-Length", "2")], [b"okHTTP/1.1 200 OK\r\n", b"x"]), LAST)
    assert answer.endswith(b"\r\n\r\nok")


def test_less_than_the_promised_length_ends_the_connection() -> None:
    answer = talk(answering("200 OK", [("Content-Length", "9")], [b"short"]), GET + GET)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert answer.endswith(b"short")


def test_headers_of_one_hop_are_of_this_hop() -> None:
    headers = [("Connection", "X-Secret"), ("Transfer-Encoding", "gzip"), ("Keep-Alive", "9"), ("X-A", "b")]
    lines, _ = split(talk(answering("200 OK", [*headers, ("Content-Length", "0")], []), GET))
    assert [line for line in lines if line.startswith((b"Conn", b"Transfer", b"Keep"))] == [
        b"Connection: keep-alive"
    ]
    assert b"X-A: b" in lines


@pytest.mark.parametrize("value", ["a\r\nX-Forged: 1", "a\nX-Forged: 1", "a\rX-Forged: 1"])
def test_a_line_end_in_a_header_is_never_sent(value: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = talk(answering("200 OK", [("X-A", value), ("Content-Length", "0")], []), GET)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Forged" not in answer
    assert "line end" in caplog.text


def test_an_application_that_fails_is_500_and_the_end(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: object, start_response: object) -> Iterable[bytes]:
        raise ZeroDivisionError

    answer = talk(application, GET + GET)
    assert answer.count(b"HTTP/1.1 500 Internal Server Error") == 1
    assert b"ZeroDivisionError" not in answer
    assert "ZeroDivisionError" in caplog.text


def test_w17_an_answer_that_breaks_off_does_not_look_whole(caplog: pytest.LogCaptureFixture) -> None:
    closed = []

    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            yield b"hello"
            raise BackendLost("Nova went away")

        def close(self) -> None:
            closed.append(True)

    answer = talk(answering("200 OK", [], Parts()), GET + GET)
    assert answer.endswith(b"5\r\nhello\r\n")
    assert closed == [True]
    assert "Nova went away" in caplog.text
    assert "Traceback" not in caplog.text


def test_start_response_may_be_called_again_before_the_head_is_sent() -> None:
    def application(_: object, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "9")])
        with contextlib.suppress(ValueError):
            raise ValueError
        write = start_response("503 Service Unavailable", [], (ValueError, ValueError(), None))
        write(b"one")
        return [b"two"]

    lines, body = split(talk(application, GET))
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 33000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: the-worst\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX A: b\r\n\r\n", 400),
    ],
)
def test_w9_what_is_no_request_never_reaches_the_application(sent: bytes, status: int) -> None:
    asked: list[object] = []
    answer = talk(lambda environ, _: asked.append(environ) or [], sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in answer
    assert asked == []


def test_w2_no_header_of_a_guest_is_more_than_a_header() -> None:
    """W-2: no address, scheme or path is taken from what a guest sends, and no name with an underscore."""
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.update(environ)
        start_response("200 OK", [("Content-Length", "0")])
        return []

    talk(
        application,
        b"GET /a%20b?c=d HTTP/1.1\r\nHost: evil:1\r\nX-Forwarded-For: 10.9.9.9\r\n"
        b"X-Forwarded-Proto: https\r\nX_Forwarded_For: 10.8.8.8\r\nSCRIPT_NAME: /a\r\nREMOTE_USER: root\r\n"
        b"X-A: 1\r\nX-A: 2\r\n\r\n",
    )
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("10.0.0.5", "1234")
    assert (seen["PATH_INFO"], seen["RAW_URI"], seen["QUERY_STRING"]) == ("/a b", "/a%20b?c=d", "c=d")
    assert seen["SCRIPT_NAME"] == ""
    assert seen["HTTP_X_FORWARDED_FOR"] == "10.9.9.9"
    assert seen["HTTP_X_A"] == "1,2"
    assert not {"REMOTE_USER", "HTTP_REMOTE_USER", "HTTP_SCRIPT_NAME"} & set(seen)


def test_a_guest_that_has_gone_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    def application(_: object, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        raise OSError(errno.EPIPE, "gone")

    assert talk(application, GET) == b""
    assert caplog.records == []
