"""Shared secrets: reading them, signing with the first one, and accepting a signature of any.

A signature is an HMAC-SHA256 in lower-case hex, as Nova wants it (S-1). Secrets come from an option, from a
file, or from a file that is encrypted with Fernet (S-3). No message contains a secret.
"""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from oslo_config import cfg

from mdmw.observe.series import SECRET, Measurement
from mdmw.options import refuse

LOG = logging.getLogger(__name__)

NOVA_SECRET = "metadata_proxy_shared_secret"  # noqa: S105 - the names of options
RELAY_SECRET = "relay_shared_secret"  # noqa: S105 - likewise


def secret_options(name: str, what: str) -> list[cfg.Opt]:
    """The options `name`, `name_file` and `name_key_file`. `what` begins the help text of `name`."""
    return [
        cfg.MultiStrOpt(
            name,
            default=[],
            secret=True,
            help=f"{what} For a change of secrets write several, one in each line: the first one signs. "
            f"Paste interpolates '%' in its file, so prefer {name}_file.",
        ),
        cfg.StrOpt(f"{name}_file", help=f"File with one secret in each line, instead of {name}."),
        cfg.StrOpt(
            f"{name}_key_file",
            help=f"File with a Fernet key of python-cryptography, if {name}_file is encrypted with it.",
        ),
    ]


def nova_secret_options() -> list[cfg.Opt]:
    """The options of the secret that agent and Nova share, and whether a secret is required (S-2)."""
    return [
        *secret_options(NOVA_SECRET, "The secret shared with Nova's metadata API."),
        cfg.BoolOpt("require_secret", default=True, help="Refuse to start without a shared secret."),
    ]


def nova_signer(settings: SimpleNamespace) -> "Signer":
    """The signer of `nova_secret_options`. Without a secret: `ConfigError`, or a warning (S-2)."""
    secrets = read_secrets(settings, NOVA_SECRET)
    if secrets and all(secrets):
        return Signer(secrets, _changed(settings, NOVA_SECRET))
    if settings.require_secret:
        raise refuse(
            settings,
            NOVA_SECRET,
            f"a secret is required; give it, or {NOVA_SECRET}_file, or require_secret = false",
        )
    LOG.warning("%s: no %s: everybody can forge a signature", settings.place, NOVA_SECRET)
    return Signer(secrets or ("",))


def relay_signer(settings: SimpleNamespace) -> "Signer | None":
    """The signer of `secret_options(RELAY_SECRET)`; None without a secret. Raises `ConfigError`."""
    secrets = read_secrets(settings, RELAY_SECRET)
    return Signer(secrets, _changed(settings, RELAY_SECRET)) if secrets and all(secrets) else None


def read_secrets(settings: SimpleNamespace, name: str) -> tuple[str, ...]:
    """The secrets of `secret_options(name)`; the first one signs. Raises `ConfigError`."""
    given: list[str] = getattr(settings, name)
    path: str | None = getattr(settings, f"{name}_file")
    key_path: str | None = getattr(settings, f"{name}_key_file")
    if not path:
        if key_path:
            raise refuse(settings, f"{name}_key_file", f"needs {name}_file")
        return tuple(given)
    if given:
        raise refuse(settings, f"{name}_file", f"is given beside {name}; one of the two is allowed")
    content = _read(settings, f"{name}_file", path)
    if key_path:
        key = _read(settings, f"{name}_key_file", key_path)
        try:
            content = Fernet(key.strip()).decrypt(content.strip())
        except (ValueError, InvalidToken):
            raise refuse(settings, f"{name}_key_file", "is not the Fernet key of that file") from None
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        raise refuse(settings, f"{name}_file", "is not UTF-8 text") from None
    secrets = tuple(line.strip() for line in lines if line.strip())
    if not secrets:
        raise refuse(settings, f"{name}_file", f"{path} holds no secret")
    return secrets


class Signer:
    """Signs and verifies with several secrets. It is made once and used for every request."""

    def __init__(self, secrets: Sequence[str], changed: Sequence[Measurement] = ()) -> None:
        self._changed = changed
        self._keyed = tuple(HMAC(secret.encode(), SHA256()) for secret in secrets)

    def measurements(self) -> Sequence[Measurement]:
        """When the file of the secrets was changed last; nothing for secrets that come from no file."""
        return self._changed

    def sign(self, message: bytes) -> str:
        """The signature with the first secret, 64 hex digits."""
        return _finish(self._keyed[0], message)

    def sign_all(self, message: bytes) -> tuple[str, ...]:
        """One signature for each secret, in their order."""
        return tuple(_finish(keyed, message) for keyed in self._keyed)

    def verifies(self, message: bytes, signature: str) -> bool:
        """Whether one of the secrets made this signature. Each comparison takes constant time."""
        given = signature.encode("latin-1", "replace")
        matches = [bytes_eq(_finish(keyed, message).encode(), given) for keyed in self._keyed]
        return any(matches)


def _changed(settings: SimpleNamespace, name: str) -> list[Measurement]:
    path: str | None = getattr(settings, f"{name}_file")
    if path:
        with contextlib.suppress(OSError):  # the file was read a moment ago
            return [(SECRET, (name,), Path(path).stat().st_mtime)]
    return []


def _finish(keyed: HMAC, message: bytes) -> str:
    mac = keyed.copy()
    mac.update(message)
    return mac.finalize().hex()


def _read(settings: SimpleNamespace, option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise refuse(settings, option, f"{path}: {error.strerror}") from None
