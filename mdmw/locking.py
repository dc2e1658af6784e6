"""Locks between processes: on files (flock(2), always exclusive), and in SQLite databases.

Nothing here blocks in a system call or in SQLite, because under gevent this would stop every guest of the
process. The one exception is `lock` without a limit.
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PAUSE = 0.01  # seconds between two looks at a lock that another process holds


def lock(descriptor: int, patience: float | None) -> None:
    """Lock an open file; raises TimeoutError when another process holds the lock for `patience` seconds.

    With `patience` None the call waits in the kernel without a limit: not for a process that serves guests.
    """
    if patience is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + patience
    while not try_lock(descriptor):
        if time.monotonic() > deadline:
            raise TimeoutError("another process has the lock")
        time.sleep(_PAUSE)  # a file's lock tells nobody when it is free


def try_lock(descriptor: int) -> bool:
    """Lock a file that nobody else has; False when somebody does."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def unlock(descriptor: int) -> None:
    """Release the lock. Closing the file is not enough: a child that was forked meanwhile has it open too."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked(path: Path, patience: float | None) -> Iterator[None]:
    """Hold the lock of the file at `path` during the block; raises OSError, and as `lock` does.

    The file is made with mode 0600.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        lock(descriptor, patience)
        try:
            yield
        finally:
            unlock(descriptor)
    finally:
        os.close(descriptor)


def when_free(act: Callable[[], T], patience: float) -> T:
    """What `act()` returns; it is called again while it raises that another process has the database locked.

    Connect with `timeout=0`. Raises `sqlite3.OperationalError` after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return act()
        except sqlite3.OperationalError as error:
            if not is_locked(error) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def is_locked(error: BaseException | None) -> bool:
    """Whether an error of SQLite says that another connection has the database locked."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _LOCKED
