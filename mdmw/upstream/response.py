"""A response while its bytes arrive. No I/O: bytes go in, what is known of the response comes out."""

from typing import Any, NamedTuple

import httptools

Headers = list[tuple[str, str]]

#: Most bytes of a head, and most headers in it, interim responses included.
MAX_HEAD = 64 * 1024
MAX_HEADERS = 256
_BETWEEN = len(": \r\n")
_VERSIONS = ("1.0", "1.1")
_HEAD_TOO_LARGE = f"a head of more than {MAX_HEAD} bytes or {MAX_HEADERS} headers"
_INTERIM = range(100, 200)
_END_OF_HEAD = b"\r\n\r\n"
_LONGEST_KNOWN, _MOST_KNOWN = 2048, 256  # bytes of a head, heads


class BadResponse(Exception):
    """The bytes are not an HTTP/1 response."""


class Cut(Exception):
    """The connection ended in the middle of a response."""


class _Head(NamedTuple):
    """What the parser made of a head with a body as long as its Content-Length behind it."""

    status: int
    reason: str
    headers: Headers
    length: int


# While many guests boot, the same few heads come again and again, but for the second in their Date.
_known: dict[bytes, _Head] = {}


class Response:
    """The final response to one request; interim ones (1xx) are skipped (RFC 9110, 15.2).

    Strict, by llhttp: no duplicate or doubtful lengths, no folded lines. A lone
    LF may end a line, as the agent of Neutron 2025.1 and later writes it.
    """

    def __init__(self, to_head: bool) -> None:
        self.status = 0
        self.reason = ""
        self.headers: Headers = []
        self.begun = False  # its head is there
        self.complete = False
        self.received = 0  # bytes of body so far
        self._to_head = to_head
        self._head_size = 0
        self._header_bytes = 0
        self._unusable = ""
        self._parts: list[bytes] = []
        self._keep_alive = False
        self._surplus = False
        self._parser: Any = None

    @property
    def started(self) -> bool:
        """Whether any byte has arrived."""
        return self._head_size > 0

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request: all was said, and nothing more."""
        return self.complete and self._keep_alive and not self._surplus

    @property
    def length(self) -> int | None:
        """The Content-Length that was promised."""
        value = next((value for name, value in self.headers if name.lower() == "content-length"), None)
        return int(value) if value is not None else None

    def feed(self, data: bytes) -> None:
        """Take what arrived; raises `BadResponse`."""
        if not self.started:
            if not data.startswith(b"H"):
                raise BadResponse("no status line")
            self._begin(data)
            return
        if not self.begun:
            self._head_size += len(data)
        self._parse(data)

    def _begin(self, data: bytes) -> None:
        """The first bytes: a response that is all there, with a head that came before, needs no parser."""
        self._head_size = len(data)
        head, _, body = data.partition(_END_OF_HEAD)
        known = None if self._to_head else _known.get(head)
        if known is not None and known.length == len(body):
            self.status, self.reason, headers, self.received = known
            self.headers = headers.copy()
            self._parts = [body]
            self.begun = self.complete = self._keep_alive = True
            return
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
        self._parse(data)
        if (
            self.reusable
            and not self._to_head
            and self.received == len(body) == self.length
            and len(head) <= _LONGEST_KNOWN
        ):
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[head] = _Head(self.status, self.reason, self.headers.copy(), self.received)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise BadResponse(str(error)) from None
            self._surplus = True
        if self._unusable or (not self.begun and self._head_size > MAX_HEAD):
            raise BadResponse(self._unusable or _HEAD_TOO_LARGE)
        if self.complete:
            self._parser = None  # it refers back to this object

    def end(self) -> None:
        """The connection has ended; raises `Cut` unless that is how the body ends."""
        if not self.begun:
            raise Cut("in the head" if self.started else "without an answer")
        if self.length is not None or self._is_chunked():
            raise Cut(f"after {self.received} bytes of the body")
        self.complete = True
        self._parser = None

    def take(self) -> bytes:
        """The bytes of the body that have arrived since the last call."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _is_chunked(self) -> bool:
        return any(name.lower() == "transfer-encoding" for name, _ in self.headers)

    # --- called by httptools -------------------------------------------------------------

    # After the end of the response nothing counts any more, but that there is more.

    def on_message_begin(self) -> None:
        self._surplus = self.complete

    def on_status(self, part: bytes) -> None:
        if not self.complete:
            self.reason += part.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self.headers.append((name.decode("latin-1"), value.decode("latin-1")))
            self._header_bytes += len(name) + len(value) + _BETWEEN
            if self._header_bytes > MAX_HEAD or len(self.headers) > MAX_HEADERS:
                self._unusable = _HEAD_TOO_LARGE

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        if self._parser.get_http_version() not in _VERSIONS:
            self._unusable = "not HTTP/1"
        self.status = self._parser.get_status_code()
        if self.status not in _INTERIM:
            self.begun = True
            self.complete = self._to_head
            self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, part: bytes) -> None:
        if self.complete:
            self._surplus = True
        else:
            self._parts.append(part)
            self.received += len(part)

    def on_message_complete(self) -> None:
        if self.status in _INTERIM and not self.complete:
            self.reason = ""
            self.headers = []
        else:
            self.complete = True
