"""nova-forward: carry it to Nova's metadata API, and carry the answer back.

Reads: `mdmw.proofs`, the raw request target, the body.
Writes: nothing.
Answers: what Nova says, as spec 1.6 maps it; 503 when Nova is away, 504 when slow.
Place: last. As a filter it takes proven requests and leaves others to the next app.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg

from mdmw import wire
from mdmw.boundary.body import read_body
from mdmw.boundary.relay import Relayed, admit_encoding
from mdmw.boundary.stage import App, Either, Terminal, of_status
from mdmw.errors import BackendError, PipelineError, Refused
from mdmw.observe.journal import SECOND_PROOF, journal_of, next_hop_headers, note
from mdmw.options import load, refuse
from mdmw.records import INSTANCE, PROOFS, SOURCE, Environ
from mdmw.upstream.address import Address, parse_address
from mdmw.upstream.exchange import Answer, Upstream
from mdmw.upstream.settings import limit_options, limits_of
from mdmw.upstream.tls import certificate_ends, client_context

OPTIONS = [
    cfg.ListOpt(
        "nova_metadata_host",
        default=["127.0.0.1"],
        deprecated_name="nova_metadata_ip",
        help="Nova's metadata API: host, host:port, [ipv6]:port or unix:/path. Of several, the next one "
        "is tried when one cannot be connected to.",
    ),
    cfg.PortOpt("nova_metadata_port", default=8775, min=1, help="Port, where the address names none."),
    cfg.StrOpt("nova_metadata_protocol", default="http", choices=["http", "https"], help="Protocol to Nova."),
    cfg.BoolOpt("nova_metadata_insecure", default=False, help="Do not verify Nova's certificate."),
    cfg.StrOpt("auth_ca_cert", help="CA bundle that verifies Nova's certificate."),
    cfg.StrOpt("nova_client_cert", default="", help="Client certificate; goes with nova_client_priv_key."),
    cfg.StrOpt("nova_client_priv_key", default="", help="Key of the client certificate."),
    *limit_options("nova", read_timeout=25.0, total_timeout=28.0),
    cfg.IntOpt("max_body", default=65536, min=0, help="Longest request body, in bytes."),
]
_ERROR_TEXT = 500


class NovaForward(Terminal):
    """Sends the request with the first proof, and on a 403 once with each further one (S-3)."""

    stage = "forward"
    requires = frozenset({PROOFS})

    def __init__(self, upstream: Upstream, max_body: int) -> None:
        self._upstream = upstream
        self._max_body = max_body
        self.checks = {"upstream": upstream.check}
        self.measurements = upstream.measurements

    def respond(self, environ: Environ) -> App:
        if PROOFS not in environ:
            raise PipelineError("nova-forward needs hmac-sign before it")
        answer = self._ask(environ)
        try:
            return _response(answer, environ)
        except BaseException:
            answer.close()
            raise

    def _ask(self, environ: Environ) -> Answer:
        method = environ["REQUEST_METHOD"]
        target = wire.request_target(environ)
        body = read_body(environ, self._max_body)
        headers = [*wire.to_nova(environ), *next_hop_headers(environ)]
        journal = journal_of(environ)
        deadline = self._upstream.deadline()
        first, *others = environ[PROOFS]
        answer = self._upstream.exchange(method, target, [*headers, *first], body, deadline, journal)
        for proof in others:
            if answer.status != 403:
                break
            answer.close()
            note(journal, SECOND_PROOF)
            answer = self._upstream.exchange(method, target, [*headers, *proof], body, deadline, journal)
        return answer


def _response(answer: Answer, environ: Environ) -> App:
    """The table of spec 1.6."""
    headers = wire.from_nova(answer.headers)
    if answer.status == 403:
        raise Refused(f"Nova refused the signature of {_who(environ)}; compare the shared secrets")
    if 300 <= answer.status < 400 and answer.status != 304:
        raise BackendError(f"Nova answered with a redirect ({answer.status}), which is never followed")
    if 500 <= answer.status <= 599:
        return _generic(answer, headers, environ)
    return Relayed(answer, admit_encoding(answer, headers, environ))


def _generic(answer: Answer, headers: wire.Headers, environ: Environ) -> App:
    text = answer.read(_ERROR_TEXT).decode("utf-8", "backslashreplace")
    retry_after = next((value for name, value in headers if name.lower() == "retry-after"), None)
    return of_status(answer.status, retry_after, f"Nova said {text!r} for {_who(environ)}", environ)


def _who(environ: Environ) -> str:
    return f"instance {environ[INSTANCE].id}" if INSTANCE in environ else str(environ.get(SOURCE))


# --- strings to settings ----------------------------------------------------------------


def app_factory(global_conf: Mapping[str, str], **local_conf: str) -> NovaForward:
    """Paste entry point of the terminal form; raises `ConfigError`."""
    settings = load("nova-forward", OPTIONS, global_conf, local_conf)
    tls = tls_of(settings)
    certificates = certificate_ends("nova", settings.auth_ca_cert, settings.nova_client_cert) if tls else ()
    upstream = Upstream(addresses_of(settings), limits_of(settings, "nova"), tls, "nova", certificates)
    return NovaForward(upstream, settings.max_body)


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Either]:
    """Paste entry point of the filter form; raises `ConfigError`."""
    forward = app_factory(global_conf, **local_conf)
    return lambda app: Either(PROOFS, forward, app)


def addresses_of(settings: SimpleNamespace) -> list[Address]:
    """Those of Nova, in order of preference; raises `ConfigError`."""
    try:
        addresses = [
            parse_address(text, settings.nova_metadata_protocol, settings.nova_metadata_port)
            for text in settings.nova_metadata_host
        ]
    except ValueError as error:
        raise refuse(settings, "nova_metadata_host", str(error)) from None
    if not addresses:
        raise refuse(settings, "nova_metadata_host", "at least one address is needed")
    return addresses


def tls_of(settings: SimpleNamespace) -> Any:
    """The TLS context for them, None without TLS; raises `ConfigError`."""
    cert, key = settings.nova_client_cert, settings.nova_client_priv_key
    if bool(cert) != bool(key):
        missing = "nova_client_priv_key" if cert else "nova_client_cert"
        raise refuse(settings, missing, "nova_client_cert and nova_client_priv_key go together")
    if settings.nova_metadata_protocol != "https":
        return None
    ca_file, insecure = settings.auth_ca_cert, settings.nova_metadata_insecure
    try:
        context = client_context(ca_file, insecure)
    except OSError as error:  # ssl.SSLError is one
        raise refuse(settings, "auth_ca_cert", f"{ca_file} cannot be used: {error}") from None
    if not cert:
        return context
    try:
        return client_context(ca_file, insecure, cert, key)
    except OSError as error:
        raise refuse(settings, "nova_client_cert", f"{cert} with {key} cannot be used: {error}") from None
