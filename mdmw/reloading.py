"""What is read again, as one whole, when it changes: a file, or something else."""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from mdmw.errors import ConfigError

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_A_MOMENT = 0.05  # seconds

_Stamp = tuple[int, int, int]


class Reloading(Generic[T]):
    """What `read()` says; `value()` reads again when `look()` says something else than before.

    The first reading raises `ConfigError`. A later one that does is logged once, and the last
    good value stays. `interval` is seconds between looks, so that a request costs no system
    call; `name` is for the log.
    """

    def __init__(
        self, name: str, look: Callable[[], Hashable], read: Callable[[], T], interval: float = 1.0
    ) -> None:
        self._name = name
        self._look = look
        self._read = read
        self._interval = interval
        self._lock = threading.Lock()
        self._stamp = look()
        self._value = read()
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

    def newest(self) -> T:
        """As `value`, whatever the interval: for who does not find something, and would say so for good.

        What was looked at a moment ago is new enough, so that a flood of these costs little.
        """
        with self._lock:
            now = time.monotonic()
            if now >= self._next_look - self._interval + _A_MOMENT:
                self._refresh()
                self._next_look = now + self._interval
        return self._value

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._value = self._read()
        except ConfigError as error:
            LOG.error("keeping the last good content: %s", error)  # noqa: TRY400 - the line says it all
        else:
            LOG.info("%s: read again", self._name)


class ReloadingFile(Reloading[T]):
    """`parse(path)` of a file; a file that is moved over it, or is of another time or size, has changed."""

    def __init__(self, path: str, parse: Callable[[Path], T], interval: float = 1.0) -> None:
        super().__init__(path, partial(_stamp, Path(path)), partial(parse, Path(path)), interval)


def _stamp(path: Path) -> _Stamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
