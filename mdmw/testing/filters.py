"""Tools to test a filter: the request of a guest, the application behind the filter, and a conformance suite.

Subclass `FilterConformance` in a test file, make your filter in `make_filter`, and let pytest collect the
class. Each test has the rule of the specification in its docstring.

    class TestMine(FilterConformance):
        def make_filter(self, app):
            return MyFilter(app)
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import SkipTest
from urllib.parse import unquote
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from mdmw import wire
from mdmw.records import INSTANCE, PROOFS, SOURCE, Environ, Instance, Scope, Source
from mdmw.upstream.address import Address

NETWORK = "c0f04a4c-0001-4000-8000-000000000000"
#: The guest that sends the requests of this module, and its instance.
GUEST = Source("10.0.0.5", Scope("network", NETWORK))
GUEST_INSTANCE = Instance(
    "c0f04a4c-0004-4000-8000-000000000000",
    "5d1f0c6e0a9b4e6f8f3f6f2b7c9d0e11",
    "c0f04a4c-0005-4000-8000-000000000001",
)

_RECORDS = {
    SOURCE: GUEST,
    INSTANCE: GUEST_INSTANCE,
    PROOFS: ((("X-Instance-ID", GUEST_INSTANCE.id),),),
}
_SERVER_KEYS = ("wsgi.input", "wsgi.errors")  # the validator puts objects of its own in their place
_THREADS = 8

App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def guest_environ(
    target: str = "/latest/meta-data/", method: str = "GET", source: Source | None = GUEST, **more: Any
) -> Environ:
    """The WSGI environ of a request that a guest sends to the metadata address.

    `source` is what source-identify found out, None before source-identify. `more` are further keys, for
    example `HTTP_ACCEPT="application/json"`.
    """
    path, _, query = target.partition("?")
    environ: Environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(path, "latin-1"),
        "QUERY_STRING": query,
        "REMOTE_ADDR": GUEST.address,
        "HTTP_HOST": "169.254.169.254",
        "HTTP_USER_AGENT": "Cloud-Init/24.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }
    if source is not None:
        environ[SOURCE] = source
    setup_testing_defaults(environ)
    return environ | more


class RecordingApp:
    """The application behind a filter: records each request, and answers `body` with `status`.

    `closed` counts the bodies that were closed, as PEP 3333 demands.
    """

    def __init__(self, status: str = "200 OK", body: bytes = b"ok", raises: Exception | None = None) -> None:
        self.status = status
        self.body = body
        self.raises = raises
        self.environs: list[Environ] = []
        self.closed = 0

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.environs.append(environ.copy())
        if self.raises is not None:
            raise self.raises
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(self.body))), ("X-App", "yes")]
        start_response(self.status, headers)
        return _Closing(self)


class _Closing:
    def __init__(self, app: RecordingApp) -> None:
        self._app = app

    def __iter__(self) -> Iterator[bytes]:
        yield self._app.body

    def close(self) -> None:
        self._app.closed += 1


@dataclass(frozen=True, slots=True)
class AppAnswer:
    """What a WSGI application answered. The names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(app: App, environ: Environ) -> AppAnswer:
    """Send one request to an application; AssertionError when the application breaks PEP 3333."""
    seen: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        seen.append((status, headers))
        return lambda _: None

    result: Any = validator(app)(environ, start_response)
    try:
        body = b"".join(result)
    finally:
        result.close()
    status, headers = seen[-1]
    return AppAnswer(int(status.split()[0]), {name.lower(): value for name, value in headers}, body)


class FilterConformance:
    """The tests that every filter must pass. Subclass it, and say how to make the filter."""

    #: Keys of the environ that the filter removes on purpose, for example headers that it has verified.
    removes: Collection[str] = ()

    def make_filter(self, app: App) -> App:
        """The filter, in front of `app`."""
        raise NotImplementedError

    def make_environ(self) -> Environ:
        """A request that the filter passes on; with the records of `requires` in it."""
        filter_ = self.make_filter(RecordingApp())
        required = getattr(filter_, "requires", ())
        return guest_environ(source=None) | {key: _RECORDS[key] for key in required}

    def make_refused_environ(self) -> Environ | None:
        """A request that the filter refuses; None when it refuses no request."""
        return None

    # --- requests that pass -------------------------------------------------------------

    def test_the_request_is_passed_on(self) -> None:
        """The application is called once, and its answer arrives as it was."""
        app = RecordingApp(body=b"the answer")
        found = ask(self.make_filter(app), self.make_environ())
        _same(len(app.environs), 1)
        _same((found.status, found.body, found.headers["x-app"]), (200, b"the answer", "yes"))

    def test_the_filter_removes_nothing(self) -> None:
        """What the server and earlier filters wrote arrives; a filter only adds to it."""
        app = RecordingApp()
        environ = self.make_environ() | {"HTTP_X_OTHER": "kept", "my_site.record": object()}
        ask(self.make_filter(app), environ.copy())
        (arrived,) = app.environs
        lost = {
            key for key, value in environ.items() if key not in _SERVER_KEYS and arrived.get(key) != value
        }
        _same(lost - set(self.removes), set())

    def test_provided_records_are_there(self) -> None:
        """Spec 4: the application finds each key that the filter declares in `provides`."""
        app = RecordingApp()
        filter_ = self.make_filter(app)
        ask(filter_, self.make_environ())
        _same(set(getattr(filter_, "provides", ())) - set(app.environs[0]), set())

    def test_the_body_is_closed_once(self) -> None:
        """PEP 3333: also the body of an error page, and also when the server gives up."""
        for status in ("200 OK", "404 Not Found", "503 Service Unavailable"):
            app = RecordingApp(status)
            _same(ask(self.make_filter(app), self.make_environ()).status, int(status[:3]))
            _same(app.closed, 1)
        app = RecordingApp()
        body: Any = self.make_filter(app)(self.make_environ(), lambda *_: None)
        body.close()
        _same(app.closed, 1)

    def test_an_error_of_the_application_is_not_hidden(self) -> None:
        """What the application raises is for the server, or for an outer filter."""
        app = RecordingApp(raises=_Broken("the application is broken"))
        filter_ = self.make_filter(app)
        try:
            list(filter_(self.make_environ(), lambda *_: None))
        except _Broken:
            return
        raise AssertionError("the filter hid an exception of the application")

    def test_many_threads_at_once(self) -> None:
        """Requests do not see each other's records."""
        app = RecordingApp()
        filter_ = self.make_filter(app)
        answers: list[object] = []

        def work(number: int) -> None:
            try:
                answers.append(ask(filter_, self.make_environ() | {"my_site.number": number}).status)
            except BaseException as error:
                answers.append(error)

        threads = [threading.Thread(target=work, args=[number]) for number in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _same(answers, [200] * _THREADS)
        _same({environ["my_site.number"] for environ in app.environs}, set(range(_THREADS)))

    # --- requests that end here ---------------------------------------------------------

    def test_w18_a_refusal_is_an_answer(self) -> None:
        """W-18: an error ends in a status, a request id and a sentence, and the application is not called.

        A 503 says when to try again. Nothing in the answer tells about networks, instances or hosts.
        """
        for accept in ("", "application/json"):
            app = RecordingApp()
            environ = self._refused() | ({"HTTP_ACCEPT": accept} if accept else {})
            found = ask(self.make_filter(app), environ)
            _same(len(app.environs), 0)
            if not 400 <= found.status <= 599:
                raise AssertionError(f"status {found.status} is not that of an error")
            if wire.REQUEST_ID.lower() not in found.headers:
                raise AssertionError(f"the answer has no {wire.REQUEST_ID}")
            if found.status == 503 and "retry-after" not in found.headers:
                raise AssertionError("503 without Retry-After")
            _same(found.headers["content-type"].partition(";")[0], accept or "text/plain")
            for secret in _secrets_of(environ):
                if secret in found.body:
                    raise AssertionError(f"the answer tells {secret!r}")

    def test_a_missing_record_is_an_answer(self) -> None:
        """Spec 4: in a wrong pipeline a guest gets 500, and not an exception."""
        required = getattr(self.make_filter(RecordingApp()), "requires", ())
        if not required:
            raise SkipTest("this filter requires nothing")
        for key in required:
            app = RecordingApp()
            environ = {name: value for name, value in self.make_environ().items() if name != key}
            _same((ask(self.make_filter(app), environ).status, len(app.environs)), (500, 0))

    # --- helpers ------------------------------------------------------------------------

    def _refused(self) -> Environ:
        environ = self.make_refused_environ()
        if environ is None:
            raise SkipTest("this filter refuses no request")
        return environ


class _Broken(Exception):
    """What an application raises."""


def _secrets_of(environ: Environ) -> Iterator[bytes]:
    source, instance = environ.get(SOURCE), environ.get(INSTANCE)
    if source is not None:
        yield source.scope.id.encode()
    if instance is not None:
        for value in (instance.id, instance.project_id, instance.port_id):
            yield value.encode()


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


# --- an upstream ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A request that arrived at a `FakeUpstream`. The names of `headers` are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class FakeUpstream:
    """A server in the place of Nova or of another agent: records each request, and answers as told.

    Set `status`, `headers` and `body` before a request. `address` is for `mdmw.upstream.exchange.Upstream`.
    """

    address: Address
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    requests: list[UpstreamRequest] = field(default_factory=list)


@contextmanager
def fake_upstream() -> Iterator[FakeUpstream]:
    """A `FakeUpstream` that listens on a free port of 127.0.0.1 until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            length = int(self.headers.get("Content-Length") or 0)
            names = {name.lower(): value for name, value in self.headers.items()}
            upstream.requests.append(UpstreamRequest(self.command, self.path, names, self.rfile.read(length)))
            self.send_response(upstream.status)
            for name, value in upstream.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(upstream.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(upstream.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test asks for `requests`."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        upstream = FakeUpstream(Address("http", "127.0.0.1", server.server_address[1]))
        thread = threading.Thread(target=server.serve_forever, args=[0.01], name="fake-upstream", daemon=True)
        thread.start()
        try:
            yield upstream
        finally:
            server.shutdown()
            thread.join()
