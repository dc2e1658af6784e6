"""The answer of an upstream as a WSGI response, byte for byte (W-12 to W-17)."""

import zlib
from collections.abc import Iterable, Iterator

from webob.acceptparse import AcceptEncodingValidHeader, create_accept_encoding_header

from mdmw import wire
from mdmw.boundary.stage import StartResponse
from mdmw.errors import BackendError
from mdmw.records import Environ
from mdmw.upstream.exchange import BUFFER_LIMIT, Answer, Stream
from mdmw.wire import Headers

_BODILESS = frozenset({204, 304})
_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
_DECODED_LIMIT = 64 * BUFFER_LIMIT
_DECODABLE = frozenset({"gzip", "deflate"})


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
        try:
            start_response(f"{answer.status} {wire.one_line(answer.reason) or 'Unknown'}", headers)
        except BaseException:  # the server will never close what it did not get
            answer.close()
            raise
        if isinstance(answer.body, Stream | DecodedStream):
            return answer.body
        return [answer.body] if answer.body else []


def admit_encoding(answer: Answer, headers: Headers, environ: Environ) -> Headers:
    """Undo a content coding that the guest does not take (W-14); returns the headers that then fit.

    Nova was asked for `identity`; this is for a web server in front of it that
    encodes all the same. What cannot be decoded passes as it is.
    """
    codings = [value for name, value in headers if name.lower() == "content-encoding"]
    if not codings:
        return headers
    coding = ",".join(codings).strip().lower().removeprefix("x-")
    if coding not in _DECODABLE or _admits(environ, coding):
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
        return _pieces(self._stream)

    def close(self) -> None:
        self._stream.close()


def _decode(body: bytes) -> bytes:
    parts = []
    size = 0
    for piece in _pieces([body]):
        size += len(piece)
        if size > _DECODED_LIMIT:
            raise BackendError(f"the encoded body has more than {_DECODED_LIMIT} bytes")
        parts.append(piece)
    return b"".join(parts)


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What the chunks decode to, no piece longer than BUFFER_LIMIT; gzip may have several members."""
    decoder = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        for chunk in chunks:
            rest = chunk
            more = bool(rest)
            while more:
                if decoder.eof:
                    decoder = zlib.decompressobj(_ZLIB_OR_GZIP)
                piece = decoder.decompress(rest, BUFFER_LIMIT)
                if piece:
                    yield piece
                rest = decoder.unconsumed_tail or decoder.unused_data
                # A full piece may have more behind it, with nothing left to put in.
                more = bool(rest) or (len(piece) == BUFFER_LIMIT and not decoder.eof)
    except zlib.error as error:
        raise BackendError(f"the encoded body is broken: {error}") from None
    if not decoder.eof:
        raise BackendError("the encoded body is cut")


def _admits(environ: Environ, coding: str) -> bool:
    """Whether the guest says that it takes `coding`; one that says nothing, or nonsense, does not."""
    given = (environ.get("HTTP_ACCEPT_ENCODING") or "").lower().replace("x-gzip", "gzip")
    accepted = create_accept_encoding_header(given)
    return isinstance(accepted, AcceptEncodingValidHeader) and bool(accepted.acceptable_offers([coding]))
