"""A file that is read again, as one whole, when it changes."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from mdmw.errors import ConfigError

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_Stamp = tuple[int, int, int]


class ReloadingFile(Generic[T]):
    """`parse(path)` of a file; `value()` parses again when the file has changed.

    The first load raises `ConfigError`. A later file that does not parse is
    logged once, and the last good value stays. `interval` is seconds between
    looks at the file, so that a request costs no system call.
    """

    def __init__(self, path: str, parse: Callable[[Path], T], interval: float = 1.0) -> None:
        self._path = Path(path)
        self._parse = parse
        self._interval = interval
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._value = parse(self._path)
        self._next_look = time.monotonic() + interval

    def value(self) -> T:
        """The newest good value."""
        if time.monotonic() >= self._next_look and self._lock.acquire(blocking=False):
            try:
                self._refresh()
                self._next_look = time.monotonic() + self._interval
            finally:
                self._lock.release()
        return self._value

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._value = self._parse(self._path)
        except ConfigError as error:
            LOG.error("keeping the last good content: %s", error)  # noqa: TRY400 - the line says it all
        else:
            LOG.info("%s: read again", self._path)

    def _look(self) -> _Stamp | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
