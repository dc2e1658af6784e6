"""Content that is read again, in the background, when its source has changed: a file or a database.

A request always gets the content that is there. Only a request that would otherwise be refused for
good waits for newer content, and not for long.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from mdmw.errors import ConfigError, Unavailable

LOG = logging.getLogger(__name__)
T = TypeVar("T")
U = TypeVar("U")

# Seconds.
_RECENT = 0.05  # a look that is younger than this counts as a look of now
_GRACE = 0.05  # the request that notices a change waits this long: small files are read by then
_PATIENCE = 1.0  # a request that found nothing in the old content waits this long for the new one
_WORK = 0.002  # a loop in the background computes this long ...
_REST = 0.0002  # ... and then leaves the interpreter to other threads for this long

_FileStamp = tuple[int, int, int]


class Reloading(Generic[T]):
    """The content that `read()` returns.

    `look()` returns a stamp of the source. When the stamp has changed, a thread calls `reread()` (by
    default `read`) and the new content replaces the old content in one step. When reading raises
    `ConfigError`, the error is logged once and the old content stays. The constructor reads for the
    first time and raises `ConfigError`.

    `name` names the source in the log. `interval` is the number of seconds between two looks.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], Hashable],
        read: Callable[[], T],
        interval: float = 1.0,
        reread: Callable[[], T] | None = None,
    ) -> None:
        self._name = name
        self._look = look
        self._reread = reread or read
        self._interval = interval
        self._derived: list[Derived[T, Any]] = []
        self._lock = threading.Lock()  # of the thread that looks
        self._reader: threading.Thread | None = None
        self._stamp = look()
        self._value = read()
        self._next_look = time.monotonic() + interval

    def derived(self, make: Callable[[T], U]) -> "Derived[T, U]":
        """A second form of the content; `make` is called again for each new content."""
        made = Derived(self, make, self._value)
        self._derived.append(made)
        return made

    def value(self) -> T:
        """The content that is there; looks for a change when the interval is over."""
        if time.monotonic() >= self._next_look and self._lock.acquire(blocking=False):
            try:
                started = self._look_for_change()
            finally:
                self._lock.release()
            if started is not None:
                started.join(_GRACE)
        return self._value

    def newest(self) -> T:
        """The content of the source as it is now, whatever the interval.

        For a caller that did not find something and would refuse a guest for good. Raises
        `Unavailable` when new content is not ready within 1 s. Looks are at least 0.05 s apart, so a
        flood of such calls costs little.
        """
        with self._lock:
            if time.monotonic() >= self._next_look - self._interval + _RECENT:
                self._look_for_change()
            reader = self._reader
        if reader is not None:
            reader.join(_PATIENCE)
            if reader.is_alive():
                raise Unavailable(f"{self._name} has changed and is not yet read")
        return self._value

    def _look_for_change(self) -> threading.Thread | None:
        """Start to read when the source has changed; the thread, if one was started. Needs the lock."""
        self._next_look = time.monotonic() + self._interval
        if self._reader is not None and self._reader.is_alive():
            return None
        stamp = self._look()
        if stamp == self._stamp:
            return None
        reader = threading.Thread(target=self._read, args=[stamp], name="mdmw-reload", daemon=True)
        try:
            reader.start()
        except RuntimeError as error:  # the next look tries again
            LOG.warning("%s has changed and cannot be read now: %s", self._name, error)
            return None
        self._reader = reader
        return reader

    def _read(self, stamp: Hashable) -> None:
        try:
            value = self._reread()
            made = [(derived, derived.make(value)) for derived in self._derived]
        except ConfigError as error:
            LOG.error("keeping the last good content: %s", error)  # noqa: TRY400 - the text of the error is enough
        except Exception:
            LOG.exception("%s cannot be read; keeping the last good content", self._name)
        else:
            self._value = value
            for derived, content in made:
                derived.content = content
            LOG.info("%s: read again", self._name)
        self._stamp = stamp  # last: a process that is forked before this point reads for itself


class Derived(Generic[T, U]):
    """What `make` returns for the content of a `Reloading`; both are replaced together."""

    def __init__(self, source: Reloading[T], make: Callable[[T], U], value: T) -> None:
        self._source = source
        self.make = make
        self.content = make(value)

    def value(self) -> U:
        """As `Reloading.value`."""
        self._source.value()
        return self.content

    def newest(self) -> U:
        """As `Reloading.newest`; raises `Unavailable`."""
        self._source.newest()
        return self.content


class ReloadingFile(Reloading[T]):
    """`parse(path)` of a file. A file with another time, size or inode has changed.

    `reparse` is called in place of `parse` for a changed file, for example because it is slower to start
    and disturbs other threads less.
    """

    def __init__(
        self,
        path: str,
        parse: Callable[[Path], T],
        interval: float = 1.0,
        reparse: Callable[[Path], T] | None = None,
    ) -> None:
        file = Path(path)
        super().__init__(
            path, partial(_stamp, file), partial(parse, file), interval, partial(reparse or parse, file)
        )


def with_rests(items: Iterable[T]) -> Iterator[T]:
    """The same items, with a short rest after each 2 ms of work.

    A long loop in a background thread would keep the interpreter for a whole switch interval (0.1 s
    in a server), and under gevent until its end. With rests, requests go on between the items.
    """
    began = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - began > _WORK:
            time.sleep(_REST)
            began = time.perf_counter()


def _stamp(path: Path) -> _FileStamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
