"""A `requests.Session` that sends through `Upstream`, for libraries that need such a session.

An ordinary session is wrong in a service: it follows redirects, takes proxies and `.netrc` from the
environment, and its timeouts bound each read but not the whole request.
"""

import io
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from mdmw.errors import BackendError, BackendSlow, Unavailable
from mdmw.observe.series import Measurement
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import Answer, Limits, Stream, Upstream
from mdmw.upstream.tls import certificate_ends, client_context

#: The longest body of an answer, in bytes.
MAX_BODY = 32 * 1024 * 1024

_PORTS = {"http": 80, "https": 443}
_DEADLINE: ContextVar[float] = ContextVar("deadline", default=math.inf)

#: The arguments `verify` and `cert` of `requests`.
Verify = bool | str
Cert = str | tuple[str, str] | None


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """All requests of this thread inside the block end after `seconds` together."""
    token = _DEADLINE.set(min(_DEADLINE.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def time_left() -> float:
    """Seconds until the end of the innermost `within`, at least 0; infinite outside of any."""
    return max(_DEADLINE.get() - time.monotonic(), 0.0)


class Session(requests.Session):
    """A session that goes out through one `Transport` only, and says what that measures."""

    measurements: Callable[[], Iterator[Measurement]]


def session(limits: Limits) -> Session:
    """A session that goes out through `Transport` only; redirects are for its caller to forbid."""
    made = Session()
    made.trust_env = False
    made.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})
    transport = Transport(limits)
    made.measurements = transport.measurements
    for scheme in _PORTS:
        made.mount(f"{scheme}://", transport)
    return made


class Transport(BaseAdapter):
    """Sends prepared requests. Every fault of the server is `Unavailable`. Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits
        self._upstreams: dict[tuple[Address, Verify, Cert], Upstream] = {}
        self._lock = threading.Lock()

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 - always read whole
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,  # noqa: ARG002 - `within`
        verify: Verify = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,  # noqa: ARG002 - never used
    ) -> requests.Response:
        """Send a request; raises `Unavailable`. A redirect is not followed."""
        upstream = self._upstream(_address(request.url or ""), verify, cert)  # type: ignore[arg-type]  # text, once it is prepared
        deadline = min(upstream.deadline(), _DEADLINE.get())
        try:
            answer = upstream.exchange(
                request.method or "GET", request.path_url, _headers(request), _body(request), deadline
            )
            body = read_answer(answer)
        except (BackendSlow, BackendError) as error:
            raise Unavailable(str(error)) from None
        return _response(request, answer, body)

    def measurements(self) -> Iterator[Measurement]:
        """The slots, connections and certificates of all addresses that were asked."""
        for upstream in [*self._upstreams.values()]:
            yield from upstream.measurements()

    def close(self) -> None:
        """Nothing: idle connections end by themselves."""

    def _upstream(self, address: Address, verify: Verify, cert: Cert) -> Upstream:
        with self._lock:
            upstream = self._upstreams.get((address, verify, cert))
            if upstream is None:
                tls = _tls(address, verify, cert)
                ca_file, client_cert, _ = _files(verify, cert)
                certificates = certificate_ends("neutron", ca_file, client_cert) if tls else ()
                upstream = Upstream([address], self._limits, tls, "neutron", certificates)
                self._upstreams[address, verify, cert] = upstream
            return upstream


def context_of(verify: Verify, cert: Cert) -> ssl.SSLContext:
    """The TLS context for `verify` and `cert`; raises OSError when a file cannot be used."""
    ca_file, client_cert, client_key = _files(verify, cert)
    return client_context(ca_file, verify is False, client_cert, client_key)


def _files(verify: Verify, cert: Cert) -> tuple[str | None, str | None, str | None]:
    """The files of the CA certificates, of the client certificate, and of its key."""
    return (verify if isinstance(verify, str) else None, *(cert if isinstance(cert, tuple) else (cert, None)))


def _tls(address: Address, verify: Verify, cert: Cert) -> ssl.SSLContext | None:
    if address.scheme != "https":
        return None
    try:
        context = context_of(verify, cert)
    except OSError as error:
        raise Unavailable(f"no connection to {address}: a certificate cannot be read: {error}") from None
    return context


def _address(url: str) -> Address:
    parts = urlsplit(url)
    scheme: Any = parts.scheme
    if scheme not in _PORTS or not parts.hostname:
        raise Unavailable("not an address that begins with http:// or https://")
    return Address(scheme, parts.hostname, parts.port or _PORTS[scheme])


def _headers(request: requests.PreparedRequest) -> list[tuple[str, str]]:
    """The headers without those that `Upstream` writes: Host, Content-Length, Connection."""
    return [
        (name, value.decode("latin-1") if isinstance(value, bytes) else value)
        for name, value in request.headers.items()
        if name.lower() not in ("host", "content-length", "connection")
    ]


def _body(request: requests.PreparedRequest) -> bytes:
    body = request.body or b""
    return body.encode() if isinstance(body, str) else body


def read_answer(answer: Answer) -> bytes:
    """The body of an answer, `MAX_BODY` bytes at most; raises `Unavailable` and `BackendError`."""
    if not isinstance(answer.body, Stream):
        return answer.body
    body = bytearray()
    try:
        for part in answer.body:
            body += part
            if len(body) > MAX_BODY:
                raise Unavailable(f"an answer of more than {MAX_BODY} bytes")
    finally:
        answer.close()
    return bytes(body)


def _response(request: requests.PreparedRequest, answer: Answer, body: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status
    response.reason = answer.reason
    response.headers = CaseInsensitiveDict(answer.headers)
    response.encoding = "utf-8"
    response.url = request.url or ""
    response.request = request
    response.raw = io.BytesIO(body)
    return response
