"""Nova's metadata API: does it answer, in time, with our signature; its certificate and its clock."""

import datetime
import email.utils
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from mdmw.doctor.findings import Finding
from mdmw.doctor.upstream import LIMITS, WITHIN, Nova
from mdmw.errors import BackendSlow, MdmwError, RequestError
from mdmw.records import Instance, Scope, Source
from mdmw.upstream import transport
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import Answer, Upstream
from mdmw.upstream.tls import client_context

_NOBODY_ID = "00000000-0000-0000-0000-000000000000"
#: Nova looks at the signature before it looks for the instance (spec 3.2): 404 means that it is accepted.
NOBODY = (
    Source("192.0.2.1", Scope("network", _NOBODY_ID)),
    Instance(_NOBODY_ID, _NOBODY_ID, _NOBODY_ID),
)
_TARGET = "/openstack/latest/meta_data.json"
_SLOW = 0.7  # seconds, for an instance that is not there
_SKEW = 5.0  # seconds
_SOON = datetime.timedelta(days=14)
_GOOD = (200, 404)
_SAME_SECRET = (
    "# these two must be equal; SECRET is metadata_proxy_shared_secret in [neutron] of nova.conf:",
    f"mdmw sign {_NOBODY_ID}",
    f"printf %s {_NOBODY_ID} | openssl dgst -sha256 -hmac SECRET",
    "# correct the wrong one, and then:",
    "systemctl reload mdmw-agent  # or mdmw-metadata-agent",
)


def check(nova: Nova, address: Address) -> Iterator[Finding]:
    """Ask as nobody, and look at what comes with the answer."""
    where = str(address)
    if address.scheme == "https":
        yield from _certificate(address, nova)
    began = time.monotonic()
    try:
        answer = ask(nova, address, *NOBODY)
    except BackendSlow as error:
        yield _slow(address, str(error))
        return
    except RequestError as error:
        mend = (_curl("-v", address), "# is nova-api-metadata up, and nova_metadata_host right?")
        yield Finding("nova-unreachable", where, str(error), f"GET {_TARGET}", mend)
        return
    took = time.monotonic() - began
    yield from _skew(where, dict(answer.headers).get("Date") or dict(answer.headers).get("date"))
    if finding := _of_status(answer, address):
        yield finding
    elif took > _SLOW:
        yield _slow(address, f"it took {took:.1f} s to say that an instance is not there")


def ask(nova: Nova, address: Address, source: Source, instance: Instance) -> Answer:
    """With each proof until one is not refused; raises `RequestError`, and `ConfigError`."""
    upstream = Upstream([address], LIMITS, nova.tls if address.scheme == "https" else None)
    deadline = upstream.deadline()
    headers = [("User-Agent", "mdmw-doctor"), ("Accept", "application/json")]
    answer = None
    for proof in nova.proofs(source, instance) or ((),):
        answer = upstream.exchange("GET", _TARGET, [*headers, *proof], deadline=deadline)
        answer.close()
        if answer.status != 403:
            break
    if answer is None:
        raise MdmwError("nothing signs")
    return answer


def clock(url: str) -> Iterator[Finding]:
    """Of Keystone; that it cannot be asked is told elsewhere."""
    with transport.within(WITHIN):
        try:
            session = transport.session(LIMITS)
            response = session.get(url, allow_redirects=False, verify=False)  # for the time of day
        except RequestError:
            return
    yield from _skew(url, response.headers.get("Date"))


def _of_status(answer: Answer, address: Address) -> Finding | None:
    where = str(address)
    how = f"GET {_TARGET}, signed for an instance that is not there: {answer.status}"
    if answer.status in _GOOD:
        return None
    if answer.status == 403:
        return Finding("wrong-secret", where, "Nova refuses the signature (403)", how, _SAME_SECRET)
    what = f"Nova answers {answer.status} {answer.reason}"
    if answer.status >= 500:
        return Finding("nova-error", where, what, how, ("journalctl -u nova-api-metadata -n 50  # there",))
    is_it = "# is it Nova that listens there, with service_metadata_proxy = true?"
    return Finding("nova-answer", where, what, how, (is_it, _curl("-i", address)))


def _slow(address: Address, what: str) -> Finding:
    mend = (
        _curl("-o /dev/null -w '%{time_total}\\n'", address),
        "# look at Nova's load, database and message bus",
    )
    return Finding("nova-slow", str(address), what, f"GET {_TARGET}", mend)


def _curl(words: str, address: Address) -> str:
    if address.scheme == "unix":
        return f"curl {words} --unix-socket {address.path} http://localhost/"
    return f"curl {words} {address}/"


def _skew(where: str, date: str | None) -> Iterator[Finding]:
    try:
        there = email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return
    difference = there - time.time()
    if abs(difference) > _SKEW:
        word = "ahead of" if difference > 0 else "behind"
        what = f"its clock is {abs(difference):.0f} s {word} that of this host"
        mend = ("chronyc tracking  # here and there", "chronyc makestep")
        yield Finding("clock", where, what, f"Date: {date}", mend)


# --- certificates -----------------------------------------------------------------------


def _certificate(address: Address, nova: Nova) -> Iterator[Finding]:
    if path := nova.client_certificate:
        certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
        yield from _dates(certificate, path, f"openssl x509 -in {path} -noout -dates")
    try:
        with (
            socket.create_connection((address.host, address.port), WITHIN) as sock,
            client_context(insecure=True).wrap_socket(sock, server_hostname=address.host) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
    except (OSError, ssl.SSLError):  # told of when it is asked
        return
    if shown:
        how = f"openssl s_client -connect {address.authority} </dev/null | openssl x509 -dates"
        yield from _dates(x509.load_der_x509_certificate(shown), str(address), how)


def _dates(certificate: x509.Certificate, where: str, how: str) -> Iterator[Finding]:
    now = datetime.datetime.now(datetime.UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    mend = ("# have it renewed by whoever issued it; then reload who uses it",)
    if not begin <= now <= end:
        what = f"the certificate was valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC only"
        yield Finding("certificate-expired", where, what, how, mend)
    elif end - now < _SOON:
        what = f"the certificate ends on {end:%Y-%m-%d %H:%M} UTC"
        yield Finding("certificate-ends", where, what, how, mend)
