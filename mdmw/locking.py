"""Locks between processes, on files."""

import contextlib
import fcntl
import time

_PAUSE = 0.01  # seconds between two looks at a lock that another process holds


def lock(descriptor: int, patience: float) -> None:
    """Lock a file; TimeoutError when another process has it for `patience` seconds.

    Never a blocking flock: it knows no limit, and under gevent it would stop every guest of this process.
    """
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
    """Let others have it, also where a child that was forked meanwhile has the file open too."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
