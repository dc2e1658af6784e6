"""Errors as a guest reads them (W-18, spec 1.6 and 1.8)."""

import io
import json
import logging
import re
import time

import pytest
from guest import ADDRESS, Seen, call, environ, send

from mdmw import errors
from mdmw.boundary.stage import Either, Filter, Terminal, of_status
from mdmw.records import SOURCE, Scope, Source

NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
REQUEST_ID = re.compile(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECRET = f"nova.internal port {NETWORK} Traceback"

STATUSES = [
    (errors.BadRequest, 400),
    (errors.LengthRequired, 411),
    (errors.RequestTimeout, 408),
    (errors.BodyTooLarge, 413),
    (errors.TargetTooLong, 414),
    (errors.HeadersTooLarge, 431),
    (errors.NotIdentified, 404),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.Refused, 403),
    (errors.BackendError, 502),
    (errors.BackendLost, 502),
    (errors.BackendSlow, 504),
    (errors.Unavailable, 503),
    (errors.Overloaded, 503),
    (errors.PipelineError, 500),
    (ValueError, 500),
    (KeyError, 500),
    (RecursionError, 500),
]


class Fails(Terminal):
    def __init__(self, error):
        self.error = error

    def respond(self, _environ):
        raise self.error


def words(reply):
    """The sentence of a text reply."""
    return reply.body.decode().split("\n")[2]


@pytest.mark.parametrize(("kind", "status"), STATUSES)
def test_every_error_has_its_status_and_says_nothing_else(kind, status, caplog):
    """W-18: status line, one fixed sentence, request id; the rest is in the log, joined by the id."""
    source = Source(ADDRESS, Scope("network", NETWORK))
    with caplog.at_level(logging.INFO):
        reply = call(Fails(kind(SECRET)), **{SOURCE: source})
    assert reply.status == status
    assert reply.value("Content-Type") == "text/plain; charset=UTF-8"
    text = reply.body.decode()
    assert text.startswith(reply.line + "\n\n")
    (request_id,) = [found.group() for found in REQUEST_ID.finditer(text)]
    assert reply.value("X-Openstack-Request-Id") == request_id
    assert request_id in caplog.text
    assert NETWORK in caplog.text
    for secret in (NETWORK, "nova", "Traceback", "port", ADDRESS):
        assert secret not in text.replace(request_id, "")
    assert {name for name, _ in reply.headers} <= {
        *{"Content-Type", "Content-Length", "X-Openstack-Request-Id", "Retry-After"}
    }


def test_one_sentence_for_each_cause():
    """1.8: distinct for bad request, not identified, refused, error, unavailable, slow, overloaded."""
    kinds = [
        *[errors.BadRequest, errors.NotIdentified, errors.Refused, errors.BackendError, errors.Unavailable],
        *[errors.BackendSlow, errors.Overloaded, errors.BackendLost, ValueError],
    ]
    assert len({words(call(Fails(kind("x")))) for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("kind", [errors.Unavailable, errors.Overloaded])
@pytest.mark.parametrize("seconds", [1, 30])
def test_unavailable_says_when_to_retry(kind, seconds):
    """1.6: 503 comes with Retry-After."""
    assert call(Fails(kind("x", seconds))).value("Retry-After") == str(seconds)


def test_only_unavailable_says_so():
    for kind, status in STATUSES:
        assert (call(Fails(kind("x"))).value("Retry-After") is None) == (status != 503)


def test_a_method_that_is_not_allowed():
    """W-6: 405 says what is."""
    reply = call(Fails(errors.MethodNotAllowed("x", ("GET", "HEAD"))))
    assert (reply.status, reply.value("Allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        *[(None, False), ("", False), ("*/*", False), ("text/html", False), ("text/plain", False)],
        *[("application/json", True), ("application/json;q=0.5, text/plain;q=0.4", True)],
        *[("application/json;q=0.5, */*", False), ("APPLICATION/JSON", True), ("application/*", True)],
        *[(",,;;", False), ("a", False), ("\xff", False), ("image/png", False)],
    ],
)
def test_json_for_who_asks_for_it(accept, json_wanted):
    """W-18."""
    headers = [] if accept is None else [("Accept", accept)]
    reply = call(Fails(errors.NotIdentified("x")), headers=headers)
    if not json_wanted:
        assert reply.value("Content-Type") == "text/plain; charset=UTF-8"
        return
    assert reply.value("Content-Type").startswith("application/json")
    page = json.loads(reply.body)
    assert (page["status"], page["title"]) == (404, "404 Not Found")
    assert page["request_id"] == reply.value("X-Openstack-Request-Id")


@pytest.mark.parametrize(
    "accept",
    ["a/b;" * 8000, "a/b;q=0.5," * 3000, "," * 30000, 'a/b;c="' + '\\"' * 15000, "a/b;q=0." + "0" * 30000],
)
def test_no_accept_header_takes_long(accept):
    """A guest chooses it, and errors are what it can cause at will."""
    began = time.thread_time()
    call(Fails(errors.BadRequest("x")), headers=[("Accept", accept)])
    assert time.thread_time() - began < 1


def test_head_has_the_length_and_no_body():
    """W-16."""
    reply = call(Fails(errors.NotIdentified("x")), "HEAD")
    assert reply.body == b""
    assert int(reply.value("Content-Length")) == len(call(Fails(errors.NotIdentified("x"))).body)


def test_each_answer_has_an_id_of_its_own():
    ids = {call(Fails(errors.BadRequest("x"))).value("X-Openstack-Request-Id") for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize(
    "missing", ["REQUEST_METHOD", "PATH_INFO", "REMOTE_ADDR", "SERVER_PROTOCOL", "QUERY_STRING"]
)
def test_an_environ_with_holes_still_gets_an_answer(missing):
    """uWSGI calls the application for a request line that it could not parse."""
    made = environ()
    del made[missing]
    assert send(Fails(errors.BadRequest("x")), made, validate=False).status == 400


def test_an_empty_environ():
    assert send(Fails(errors.BadRequest("x")), {"wsgi.input": io.BytesIO()}, validate=False).status == 400


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (errors.BadRequest("x"), logging.INFO),
        (errors.NotIdentified("x"), logging.INFO),
        (errors.Unavailable("x"), logging.WARNING),
        (errors.BackendSlow("x"), logging.WARNING),
        (errors.Refused("x"), logging.ERROR),
        (ValueError("x"), logging.ERROR),
    ],
)
def test_log_levels(error, level, caplog):
    """1.6: a refused proof at ERROR. What a guest can cause at will is no alarm."""
    with caplog.at_level(logging.DEBUG):
        call(Fails(error))
    assert [record.levelno for record in caplog.records] == [level]


def test_an_unexpected_error_is_logged_with_its_trace(caplog):
    call(Fails(ZeroDivisionError("here")))
    assert "ZeroDivisionError: here" in caplog.text


def test_a_log_line_is_one_line(caplog):
    """A guest must not write lines of its own into the log."""
    with caplog.at_level(logging.INFO):
        send(Fails(errors.BadRequest("x")), environ("GET\nERROR forged", peer="x\ny"), validate=False)
    assert len(caplog.text.strip().splitlines()) == 1


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 507, 599])
def test_generic_answers_for_an_upstreams_own(status):
    """1.6: same code, our words."""
    reply = call(lambda made, start: of_status(status, None, "secret", made)(made, start))
    assert reply.status == status
    assert b"secret" not in reply.body
    assert reply.value("Retry-After") == ("1" if status == 503 else None)


# --- the boundary of a filter -----------------------------------------------------------


class Guard(Filter):
    def prepare(self, environ):
        if "test.fail" in environ:
            raise environ["test.fail"]


def test_a_filter_answers_for_itself():
    def never(*_):
        pytest.fail("the next application was called")

    assert call(Guard(never), **{"test.fail": errors.NotIdentified("x")}).status == 404
    assert call(Guard(never), **{"test.fail": TypeError("x")}).status == 500


def test_a_filter_does_not_answer_for_the_next():
    """A broad except around the next application hides its defects, and half of its response."""

    def fails(*_):
        raise errors.NotIdentified("from within")

    with pytest.raises(errors.NotIdentified):
        call(Guard(fails), validate=False)


def test_a_filter_passes_the_response_on_untouched():
    body = [b"x"]
    assert Guard(lambda *_: body)(environ(), None) is body


def test_either_takes_what_has_its_key():
    """The filter form of a terminal leaves the rest to the next application."""
    app = Either("test.key", Fails(errors.Unavailable("x")), Seen())
    assert call(app).status == 200
    assert call(app, **{"test.key": 1}).status == 503
