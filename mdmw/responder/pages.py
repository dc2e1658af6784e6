"""A page: the bytes at one path and what they are, as a WSGI application."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mdmw.records import Environ

TEXT = "text/plain; charset=UTF-8"
BYTES = "text/plain"
JSON = "application/json"

Pages = dict[str, "Page"]


@dataclass(frozen=True, slots=True)
class Page:
    """A body and its type; `complete` adds what each answer has of its own."""

    body: bytes
    content_type: str = TEXT
    complete: Callable[[bytes], bytes] | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        body = self.complete(self.body) if self.complete else self.body
        headers = [("Content-Type", self.content_type), ("Content-Length", str(len(body))), *self.headers]
        start_response("200 OK", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def lines(names: Iterable[str]) -> Page:
    """One name to a line, without a final newline (E-2)."""
    return Page("\n".join(names).encode())
