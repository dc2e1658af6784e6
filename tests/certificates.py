"""A certificate authority for tests. Its certificates have what RFC 5280 asks and Python 3.13 checks."""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)
_CRITICAL = (x509.BasicConstraints, x509.KeyUsage)
_TO_SIGN_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Issues certificates into a directory; every file it writes is a PEM file."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(
            self._issuer,
            self._key.public_key(),
            [
                x509.BasicConstraints(True, None),
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()),
                _TO_SIGN_CERTIFICATES,
            ],
        )
        self.file = self._write("ca", certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, expired: bool = False, password: bytes | None = None) -> tuple[str, str]:
        """Certificate and key for a host name or address."""
        try:
            known_as: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            known_as = x509.DNSName(name)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(
            subject, key.public_key(), [x509.SubjectAlternativeName([known_as])], -2 if expired else 0
        )
        protection = serialization.BestAvailableEncryption(password) if password else None
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            protection or serialization.NoEncryption(),
        )
        label = f"{name}-{expired}-{bool(password)}"
        return (
            self._write(label, certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{label}-key", pem),
        )

    def server(self, name: str, expired: bool = False, clients: str | None = None) -> ssl.SSLContext:
        """The context of a server; with `clients`, a CA file, it wants certificates of its clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, expired))
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        extensions: list[x509.ExtensionType],
        days: int = 0,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC) + days * _DAY
        builder = x509.CertificateBuilder(
            issuer_name=self._issuer,
            subject_name=subject,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - _DAY,
            not_valid_after=now + _DAY,
        )
        issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for extension in (*extensions, issued_by):
            builder = builder.add_extension(extension, critical=isinstance(extension, _CRITICAL))
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, label: str, data: bytes) -> str:
        path = self._directory / f"{self._name}-{label}.pem"
        path.write_bytes(data)
        return str(path)
