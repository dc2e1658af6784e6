"""The directory that the processes of one agent share: one token, one cache, one state report."""

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path

from mdmw.errors import ConfigError, Unavailable

#: Environment variable, set by who starts the processes.
GROUP_DIRECTORY = "MDMW_GROUP_DIR"

_PAUSE = 0.01  # seconds between two looks at a lock that another process holds


def group_directory(place: str) -> Path | None:
    """The directory, or None without one; `ConfigError` when others may read or write there."""
    path = os.environ.get(GROUP_DIRECTORY)
    if not path:
        return None
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise ConfigError(f"{place}: {GROUP_DIRECTORY}: {path}: {error.strerror}") from None
    if not stat.S_ISDIR(mode) or mode & 0o077:
        raise ConfigError(
            f"{place}: {GROUP_DIRECTORY}: {path} must be a directory of mode 0700, for only its owner"
        )
    return Path(path)


def lock(descriptor: int, patience: float, why_not: str) -> None:
    """Lock a file of the group; `Unavailable` when another process has it for `patience` seconds.

    Never a blocking flock: it knows no limit, and under gevent it would stop every guest of this process.
    """
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.monotonic() > deadline:
            raise Unavailable(why_not)
        time.sleep(_PAUSE)  # a file's lock tells nobody when it is free
