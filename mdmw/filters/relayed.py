"""The answer of an upstream as a WSGI response, byte for byte (W-12 to W-17)."""

import zlib
from collections.abc import Iterable, Iterator

from webob import Request

from mdmw.errors import BackendError
from mdmw.filters.base import StartResponse
from mdmw.records import Environ
from mdmw.upstream.exchange import BUFFER_LIMIT, Answer, Stream
from mdmw.wire import Headers

_BODILESS = frozenset({204, 304})
_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
_DECODED_LIMIT = 64 * BUFFER_LIMIT
_DECODABLE = frozenset({"gzip", "x-gzip", "deflate"})


class Relayed:
    """A WSGI application that says `answer` with `headers`, and a Content-Length where it is known."""

    def __init__(self, answer: Answer, headers: Headers) -> None:
        if not 200 <= answer.status <= 599:
            answer.close()
            raise BackendError(f"status {answer.status} is not an answer")
        self._answer = answer
        self._headers = headers

    def __call__(self, _environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answer = self._answer
        headers = self._headers
        if answer.length is not None and answer.status not in _BODILESS:
            headers = [*headers, ("Content-Length", str(answer.length))]
        start_response(f"{answer.status} {answer.reason or 'Unknown'}", headers)
        if isinstance(answer.body, Stream | DecodedStream):
            return answer.body
        return [answer.body] if answer.body else []


def admit_encoding(answer: Answer, headers: Headers, environ: Environ) -> Headers:
    """Undo a content coding that the guest does not take (W-14); returns the headers that then fit.

    Nova was asked for `identity`; this is for a web server in front of it that
    encodes all the same. What cannot be decoded passes as it is.
    """
    coding = next((value.lower() for name, value in headers if name.lower() == "content-encoding"), "")
    if not coding or coding not in _DECODABLE or _admits(environ, coding):
        return headers
    if isinstance(answer.body, bytes):
        answer.body = _decode(answer.body) if answer.body else b""
        answer.length = len(answer.body) if answer.body else None
    else:
        answer.body = DecodedStream(answer.body)  # type: ignore[assignment]
        answer.length = None
    return [(name, value) for name, value in headers if name.lower() != "content-encoding"]


class DecodedStream:
    """A large body, decoded on its way."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        decoder = zlib.decompressobj(_ZLIB_OR_GZIP)
        try:
            for chunk in self._stream:
                rest = chunk
                while rest:
                    yield decoder.decompress(rest, BUFFER_LIMIT)
                    rest = decoder.unconsumed_tail
        except zlib.error as error:
            raise BackendError(f"the encoded body is broken: {error}") from None

    def close(self) -> None:
        self._stream.close()


def _decode(body: bytes) -> bytes:
    decoder = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        decoded = decoder.decompress(body, _DECODED_LIMIT)
    except zlib.error as error:
        raise BackendError(f"the encoded body is broken: {error}") from None
    if decoder.unconsumed_tail or not decoder.eof:
        raise BackendError(f"the encoded body is cut, or has more than {_DECODED_LIMIT} bytes")
    return decoded


def _admits(environ: Environ, coding: str) -> bool:
    if not environ.get("HTTP_ACCEPT_ENCODING"):
        return False
    return coding in Request(environ).accept_encoding
