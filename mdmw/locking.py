"""Locks between processes: on files, and in SQLite databases.

Nothing here blocks in a system call or in SQLite: under gevent this would stop every guest of the process.
"""

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PAUSE = 0.01  # seconds between two looks at a lock that another process holds


def lock(descriptor: int, patience: float) -> None:
    """Lock a file; raises TimeoutError when another process holds the lock for `patience` seconds."""
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
