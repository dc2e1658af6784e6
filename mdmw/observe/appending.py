"""Where lines go: the process's stderr, or a file that logrotate may move away."""

import os
import select
from pathlib import Path

_STDERR = 2
_OWNER_AND_GROUP = 0o640


def to_stderr(lines: bytes) -> None:
    """Write lines; those of several processes do not mix in one pipe. Raises OSError."""
    done = 0
    while done < len(lines):
        end = lines.rfind(b"\n", done, done + select.PIPE_BUF) + 1 or len(lines)
        _write(_STDERR, lines[done:end])
        done = end


class AppendedFile:
    """A file that is made when it is not there, and opened anew when it was moved or removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._is_torn = False

    def __call__(self, lines: bytes) -> None:
        """Append lines. Raises OSError."""
        descriptor = self._open()
        try:
            _write(descriptor, b"\n" + lines if self._is_torn else lines)
        except OSError:
            self._is_torn = True  # the disk may have been full in the middle of a line
            raise
        self._is_torn = False

    def _open(self) -> int:
        if self._descriptor is not None:
            if self._is_in_place(self._descriptor):
                return self._descriptor
            os.close(self._descriptor)
            self._descriptor = None
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _OWNER_AND_GROUP)
        return self._descriptor

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))


def _write(descriptor: int, text: bytes) -> None:
    data = memoryview(text)
    while data:
        data = data[os.write(descriptor, data) :]
