"""Ask Nova's metadata API with the options of a pipeline, and look at its clock and at certificates."""

import datetime
import email.utils
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cryptography import x509

from mdmw import options
from mdmw.doctor.addresses import LIMITS, NO_ADDRESS, NO_ID, WITHIN, stage_of
from mdmw.doctor.findings import Finding
from mdmw.errors import BackendSlow, ConfigError, MdmwError, RequestError
from mdmw.filters import hmac_sign, nova_forward
from mdmw.records import INSTANCE, PROOFS, SOURCE, Environ, Instance, Proof, Scope, Source
from mdmw.upstream import transport
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import Answer, Upstream
from mdmw.upstream.tls import client_context
from mdmw.wsgi.pipelines import Stage

#: What the doctor asks Nova, and the agent, for.
TARGET = "/openstack/latest/meta_data.json"
USER_AGENT = ("User-Agent", "mdmw-doctor")
#: Nova checks the signature before Nova looks for the instance (spec 3.2): after 404 the signature is good.
_NO_SOURCE = Source(NO_ADDRESS, Scope("network", NO_ID))
_NO_INSTANCE = Instance(NO_ID, NO_ID, NO_ID)
_GOOD_STATUSES = (200, 404)
_MOST_SECONDS = 0.7  # for the answer that an instance does not exist
_MOST_CLOCK_DIFFERENCE = 5.0  # seconds
_EXPIRES_SOON = datetime.timedelta(days=14)
_COMPARE_SECRETS = (
    "# these two must be equal; SECRET is metadata_proxy_shared_secret in [neutron] of nova.conf:",
    f"mdmw sign {NO_ID}",
    f"printf %s {NO_ID} | openssl dgst -sha256 -hmac SECRET",
    "# correct the wrong one, and then:",
    "systemctl reload mdmw-agent  # or mdmw-metadata-agent",
)


@dataclass(frozen=True, slots=True)
class NovaAccess:
    """The addresses of Nova, the TLS context for Nova, and the stage that signs."""

    addresses: tuple[Address, ...]
    tls: Any
    client_certificate: str
    sign: Stage | None

    def proofs(self, source: Source, instance: Instance) -> tuple[Proof, ...]:
        """The headers that the filter hmac-sign adds; empty without this filter. Raises `ConfigError`."""
        if self.sign is None:
            return ()
        made = hmac_sign.filter_factory(self.sign.global_conf, **self.sign.local_conf)(_no_app)
        environ: Environ = {SOURCE: source, INSTANCE: instance}
        made.prepare(environ)
        proofs: tuple[Proof, ...] = environ[PROOFS]
        return proofs


def nova_access(stages: Sequence[Stage]) -> NovaAccess | None:
    """None if a pipeline does not ask Nova; raises `ConfigError`."""
    stage = stage_of(stages, "nova-forward")
    if stage is None:
        return None
    settings = options.load("nova-forward", nova_forward.OPTIONS, stage.global_conf, stage.local_conf)
    return NovaAccess(
        tuple(nova_forward.addresses_of(settings)),
        nova_forward.tls_of(settings),
        settings.nova_client_cert,
        stage_of(stages, "hmac-sign"),
    )


def _no_app(_environ: Environ, _start_response: Any) -> NoReturn:
    """The application behind a filter that only prepares an environ."""
    raise ConfigError("the doctor answers no guest")


def ask_nova(nova: NovaAccess, address: Address, source: Source, instance: Instance) -> Answer:
    """The answer to a request for the instance, signed with each secret until Nova does not answer 403.

    Raises `RequestError` and `ConfigError`.
    """
    upstream = Upstream([address], LIMITS, nova.tls if address.scheme == "https" else None)
    deadline = upstream.deadline()
    headers = [USER_AGENT, ("Accept", "application/json")]
    answer = None
    for proof in nova.proofs(source, instance) or ((),):
        answer = upstream.exchange("GET", TARGET, [*headers, *proof], deadline=deadline)
        answer.close()
        if answer.status != 403:
            break
    if answer is None:
        raise MdmwError("no secret signs the request")
    return answer


# --- checks -----------------------------------------------------------------------------


def check_nova(nova: NovaAccess, address: Address) -> Iterator[Finding]:
    """Ask one server of Nova about an instance that does not exist; look at certificates and the clock."""
    where = str(address)
    if address.scheme == "https":
        yield from _check_certificates(address, nova)
    began = time.monotonic()
    try:
        answer = ask_nova(nova, address, _NO_SOURCE, _NO_INSTANCE)
    except BackendSlow as error:
        yield _slow(address, str(error))
        return
    except RequestError as error:
        mend = (
            _curl("-v", address),
            "# check that nova-api-metadata runs, and the option nova_metadata_host",
        )
        yield Finding("nova-unreachable", where, str(error), f"GET {TARGET}", mend)
        return
    took = time.monotonic() - began
    headers = dict(answer.headers)
    yield from _clock_difference(where, headers.get("Date") or headers.get("date"))
    if finding := _of_status(answer, address):
        yield finding
    elif took > _MOST_SECONDS:
        yield _slow(address, f"Nova needed {took:.1f} s to say that an instance does not exist")


def check_clock(url: str) -> Iterator[Finding]:
    """Compare the clock of the server at `url` with the clock of this host; a silent server is no finding."""
    with transport.within(WITHIN):
        try:
            session = transport.session(LIMITS)
            response = session.get(url, allow_redirects=False, verify=False)  # only for the time of day
        except RequestError:
            return
    yield from _clock_difference(url, response.headers.get("Date"))


def _check_certificates(address: Address, nova: NovaAccess) -> Iterator[Finding]:
    if path := nova.client_certificate:
        certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
        yield from _validity(certificate, path, f"openssl x509 -in {path} -noout -dates")
    try:
        with (
            socket.create_connection((address.host, address.port), WITHIN) as sock,
            client_context(insecure=True).wrap_socket(sock, server_hostname=address.host) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
    except (OSError, ssl.SSLError):  # the request that follows fails for the same reason
        return
    if shown:
        how = f"openssl s_client -connect {address.authority} </dev/null | openssl x509 -dates"
        yield from _validity(x509.load_der_x509_certificate(shown), str(address), how)


# --- findings ---------------------------------------------------------------------------


def _of_status(answer: Answer, address: Address) -> Finding | None:
    where = str(address)
    how = f"GET {TARGET}, signed for an instance that is not there: {answer.status}"
    if answer.status in _GOOD_STATUSES:
        return None
    if answer.status == 403:
        return Finding("wrong-secret", where, "Nova refuses the signature (403)", how, _COMPARE_SECRETS)
    what = f"Nova answers {answer.status} {answer.reason}"
    if answer.status >= 500:
        mend = ("# on the host of Nova:", "journalctl -u nova-api-metadata -n 50")
        return Finding("nova-error", where, what, how, mend)
    check = "# check that Nova listens at this address, with service_metadata_proxy = true in nova.conf"
    return Finding("nova-answer", where, what, how, (check, _curl("-i", address)))


def _slow(address: Address, what: str) -> Finding:
    mend = (
        _curl("-o /dev/null -w '%{time_total}\\n'", address),
        "# look at Nova's load, database and message bus",
    )
    return Finding("nova-slow", str(address), what, f"GET {TARGET}", mend)


def _clock_difference(where: str, date: str | None) -> Iterator[Finding]:
    try:
        time_there = email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return
    difference = time_there - time.time()
    if abs(difference) > _MOST_CLOCK_DIFFERENCE:
        word = "ahead of" if difference > 0 else "behind"
        what = f"the clock there is {abs(difference):.0f} s {word} the clock of this host"
        mend = (
            "# on both hosts:",
            "chronyc tracking",
            "# on the host whose clock is wrong:",
            "chronyc makestep",
        )
        yield Finding("clock", where, what, f"Date: {date}", mend)


def _validity(certificate: x509.Certificate, where: str, how: str) -> Iterator[Finding]:
    now = datetime.datetime.now(datetime.UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    mend = ("# have the issuer renew the certificate, and then reload the service that uses the certificate",)
    if not begin <= now <= end:
        what = f"the certificate is valid only from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
        yield Finding("certificate-expired", where, what, how, mend)
    elif end - now < _EXPIRES_SOON:
        what = f"the certificate ends on {end:%Y-%m-%d %H:%M} UTC"
        yield Finding("certificate-ends", where, what, how, mend)


def _curl(words: str, address: Address) -> str:
    if address.scheme == "unix":
        return f"curl {words} --unix-socket {address.path} http://localhost/"
    return f"curl {words} {address}/"
