"""TLS to an upstream: version 1.2 or newer, CA certificates, client certificate (spec 3.4)."""

import ssl
from pathlib import Path

from cryptography import x509

from mdmw.observe.series import CERTIFICATE, Measurement


def client_context(
    ca_file: str | None = None,
    insecure: bool = False,
    client_cert: str | None = None,
    client_key: str | None = None,
) -> ssl.SSLContext:
    """A context that verifies the server's name and chain, unless `insecure` (which wins over a CA).

    Raises OSError or ssl.SSLError when a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # By default Python with OpenSSL 3 ignores a missing end of TLS: a cut would look like the end.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    if client_cert:
        # Without a password OpenSSL would ask for the passphrase of an encrypted key on the terminal.
        context.load_cert_chain(client_cert, client_key, password="")
    return context


def certificate_ends(service: str, ca_file: str | None, client_cert: str | None) -> list[Measurement]:
    """Until when the files of a context are good, as certificates `SERVICE_ca` and `SERVICE_client`.

    Of several authorities the last one counts: an old and a new one are in a file at times.
    """
    found: list[Measurement] = []
    if ca_file and (ends := _ends(ca_file)):
        found.append((CERTIFICATE, (f"{service}_ca",), max(ends)))
    if client_cert and (ends := _ends(client_cert)):
        found.append((CERTIFICATE, (f"{service}_client",), ends[0]))
    return found


def _ends(path: str) -> list[float]:
    """Unix times; none where OpenSSL can read what is there and this cannot."""
    try:
        certificates = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (ValueError, OSError):
        return []
    return [certificate.not_valid_after_utc.timestamp() for certificate in certificates]
