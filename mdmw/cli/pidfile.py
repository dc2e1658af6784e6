"""The pid file of a proxy, locked as long as that runs (P-12)."""

import fcntl
import os
from pathlib import Path

from mdmw.errors import ConfigError

_MODE = 0o644


class PidFile:
    """Takes the file at once, `write` fills it in; raises `ConfigError` when it is somebody's.

    It is somebody's while it is locked, or names a process with `mark` in its
    command line. A stale one is taken over. The lock outlives a fork.
    """

    def __init__(self, path: str, mark: str) -> None:
        self._path = Path(path).absolute()
        try:
            self._descriptor = self._locked()
        except OSError as error:
            raise ConfigError(f"option 'pid_file': {path}: {error.strerror}") from None
        if _is_alive(self._read(), mark):
            raise self._taken()

    def write(self) -> None:
        """Put this process's number into it."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def remove(self) -> None:
        """Remove it; or, in a directory that this user may no longer write to, leave it empty."""
        try:
            self._path.unlink()
        except OSError:
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _locked(self) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
            self._descriptor = descriptor
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._taken() from None
            if self._path.exists() and self._path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
            os.close(descriptor)  # its owner removed it at this moment

    def _taken(self) -> ConfigError:
        pid = self._read()
        os.close(self._descriptor)
        return ConfigError(f"option 'pid_file': {self._path}: a proxy runs already, with pid {pid or '?'}")

    def _read(self) -> int:
        text = os.pread(self._descriptor, 20, 0).strip()
        return int(text) if text.isdigit() else 0


def _is_alive(pid: int, mark: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return pid != os.getpid() and mark.encode() in command
