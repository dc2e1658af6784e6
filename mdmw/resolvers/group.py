"""The directory that the processes of one agent share: one token, one cache, one state report."""

import os
import stat
from pathlib import Path

from mdmw import locking
from mdmw.errors import ConfigError, Unavailable

#: Environment variable, set by who starts the processes.
GROUP_DIRECTORY = "MDMW_GROUP_DIR"


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
    """Lock a file of the group; `Unavailable` when another process has it for `patience` seconds."""
    try:
        locking.lock(descriptor, patience)
    except TimeoutError:
        raise Unavailable(why_not) from None
