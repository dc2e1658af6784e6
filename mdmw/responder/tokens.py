"""Session tokens as in IMDSv2 (spec 7.6). A token proves itself, so mdmw keeps no list of tokens."""

import time
from collections.abc import Callable

from mdmw.errors import BadRequest, Forbidden, Unauthorized
from mdmw.records import SOURCE, Environ
from mdmw.responder.documents import Page
from mdmw.signing import Signer

_TOKEN = "HTTP_X_AWS_EC2_METADATA_TOKEN"  # noqa: S105 - the name of a header
_TTL = "HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS"
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_MAX_TTL = 21600


class Tokens:
    """Issues and checks tokens. A token is its expiry time and a signature over the expiry and the instance.

    `required`: a request without a token is refused. `clock` returns Unix time.
    """

    def __init__(self, signer: Signer, required: bool, clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._required = required
        self._clock = clock

    def issue(self, environ: Environ, instance_id: str) -> Page:
        """A new token, as the answer to a guest's PUT.

        Raises `Forbidden` for a forwarded request, and `BadRequest` for a TTL that is not 1 to 21600 seconds.
        """
        if SOURCE in environ and environ[SOURCE].forwarded:
            raise Forbidden("a token was requested through a proxy on the guest")
        ttl = environ.get(_TTL, "").strip()
        if not (
            ttl.isascii() and ttl.isdigit() and len(ttl) <= len(str(_MAX_TTL)) and 1 <= int(ttl) <= _MAX_TTL
        ):
            raise BadRequest(f"{_TTL_HEADER} is missing or not 1 to {_MAX_TTL}")
        expiry = str(int(self._clock()) + int(ttl))
        token = f"{expiry}.{self._signer.sign(_message(instance_id, expiry))}"
        return Page(token.encode(), headers=((_TTL_HEADER, ttl),))

    def check(self, environ: Environ, instance_id: str) -> None:
        """Raises `Unauthorized` for a wrong or expired token, or for a missing token if one is required."""
        token = environ.get(_TOKEN)
        if token is None:
            if self._required:
                raise Unauthorized("the request has no token, and imdsv2 = required")
            return
        expiry, _, signature = token.partition(".")
        if not self._signer.verifies(_message(instance_id, expiry), signature):
            raise Unauthorized("the token is not a token of this instance")
        if int(expiry) < self._clock():
            raise Unauthorized("the token has expired")


def _message(instance_id: str, expiry: str) -> bytes:
    return "\0".join(("mdmw-imdsv2-1", instance_id, expiry)).encode("latin-1", "replace")
