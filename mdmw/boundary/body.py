"""The body of a request, read whole before anything is done with it (W-8, W-9)."""

from mdmw.errors import BadRequest, BodyTooLarge, LengthRequired, RequestTimeout
from mdmw.records import Environ

_CHUNK = 64 * 1024
_MOST_DIGITS = 18


def read_body(environ: Environ, limit: int) -> bytes:
    """The body, of at most `limit` bytes; chunked framing is the server's to take off.

    Raises `BodyTooLarge`, `BadRequest` when the guest stopped before the length
    it promised, `RequestTimeout` when it took too long, `LengthRequired` when
    the server does not decode a chunked body.
    """
    length = environ.get("CONTENT_LENGTH")
    if length:
        wanted = _number(length)
        if wanted > limit:
            raise BodyTooLarge(f"a body of {wanted} bytes, {limit} are allowed")
        body = _read(environ, wanted)
        if len(body) < wanted:
            raise BadRequest(f"the body ended after {len(body)} of {wanted} bytes")
        return body
    if not environ.get("HTTP_TRANSFER_ENCODING"):
        return b""
    if not environ.get("wsgi.input_terminated"):
        raise LengthRequired("a chunked body, and the server does not decode it")
    body = _read(environ, limit + 1)
    if len(body) > limit:
        raise BodyTooLarge(f"a chunked body of more than {limit} bytes")
    return body


def _number(length: str) -> int:
    if not (length.isascii() and length.isdecimal()) or len(length) > _MOST_DIGITS:
        raise BadRequest(f"Content-Length {length[:40]!r} is not a number")
    return int(length)


def _read(environ: Environ, wanted: int) -> bytes:
    stream = environ["wsgi.input"]
    parts = []
    missing = wanted
    try:
        while missing and (part := stream.read(min(missing, _CHUNK))):
            parts.append(part)
            missing -= len(part)
    except (TimeoutError, BlockingIOError):  # the latter where the kernel keeps the time
        raise RequestTimeout("the body did not arrive in time") from None
    except OSError as error:
        raise BadRequest(f"the body broke off: {error}") from None
    return b"".join(parts)
