"""A 404 for an identity that was only remembered: who is it now? (R-11, R-12)

The address may be another guest's by now. Nothing of the first answer is sent before that is
known; then it is that answer, or the one for the right instance.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from mdmw.boundary.stage import App, StartResponse, answer
from mdmw.errors import Unavailable
from mdmw.observe.journal import journal_of
from mdmw.records import INSTANCE, SOURCE, Environ, Instance
from mdmw.resolvers.caching import CacheEntry, Caching

#: Environ key, between instance-resolve and here: the `CacheEntry`, when it was remembered.
REMEMBERED = "mdmw.remembered"

# Seconds. An identity that is younger and confirmed is not tried again.
_YOUNG = 2.0


class SecondLook:
    """Calls the next application, and once more when its 404 was for the wrong instance."""

    def __init__(self, app: App, cache: Caching) -> None:
        self.app = app
        self._cache = cache

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        remembered: CacheEntry | None = environ.pop(REMEMBERED, None)
        if remembered is None:
            return self.app(environ, start_response)
        young = self._cache.clock() - remembered.as_of < _YOUNG
        if young and remembered.confirmed:  # its MAC proves it; a boot has three or four such 404s
            return self.app(environ, start_response)
        before = environ.copy()
        response = _Response(self.app, environ, start_response)
        if not response.is_404:
            return response.body
        try:
            instance = self._to_try(before, remembered, young)
        except Exception as error:
            response.close()
            return answer(error, before)(before, start_response)
        if instance is None:
            return response.send()
        response.close()
        environ.clear()
        environ.update(before)
        environ[INSTANCE] = instance
        return self.app(environ, start_response)

    def _to_try(self, environ: Environ, remembered: CacheEntry, young: bool) -> Instance | None:
        """The instance for which to ask once more; None when the 404 stands."""
        now = self._cache.refresh(environ[SOURCE], journal_of(environ)).identified()
        same = remembered.instance is not None and _identity(now) == _identity(remembered.instance)
        if same and (young or not _can_repeat(environ)):
            return None
        if not _can_repeat(environ):
            raise Unavailable("the instance was replaced by another, and the request's body is gone")
        return now


class _Response:
    """What an application answered; a 404 is held back until `send`."""

    def __init__(self, app: App, environ: Environ, start_response: StartResponse) -> None:
        self._start_response = start_response
        self._held: tuple[str, list[tuple[str, str]]] | None = None
        self._written: list[bytes] = []
        self._write: Callable[[bytes], Any] | None = None
        self._began = False
        self.body = app(environ, self._start)
        if not self._began:
            self.body = _Started(self.body)

    @property
    def is_404(self) -> bool:
        return self._held is not None

    def send(self) -> Iterable[bytes]:
        """Let it through after all."""
        if self._held is not None:
            self._write = self._start_response(*self._held)
            for data in self._written:
                self._write(data)
        return self.body

    def close(self) -> None:
        _close(self.body)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., Any]:
        self._began = True
        if self._write is None and status.startswith("404"):
            self._held = status, headers
            return self._write_later
        self._held = None
        more = (exc_info,) if exc_info else ()
        self._write = self._start_response(status, headers, *more)
        return self._write

    def _write_later(self, data: bytes) -> None:
        (self._write or self._written.append)(data)


class _Started:
    """A body of which the first piece was taken: an application may say its status only then."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        try:
            pieces = iter(body)
            self._pieces = chain((next(pieces, b""),), pieces)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        _close(self._body)


def _close(body: Iterable[bytes]) -> None:
    if (close := getattr(body, "close", None)) is not None:
        close()


def _identity(instance: Instance) -> tuple[str, str]:
    return instance.id, instance.project_id


def _can_repeat(environ: Environ) -> bool:
    has_body = environ.get("CONTENT_LENGTH") not in (None, "", "0") or environ.get("HTTP_TRANSFER_ENCODING")
    return environ.get("REQUEST_METHOD") in ("GET", "HEAD") and not has_body
