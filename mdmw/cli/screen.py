"""The whole terminal, until it is given back as it was."""

import os
import select
import shutil
import sys
import termios
import tty
from collections.abc import Sequence
from types import TracebackType

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, without a cursor; long lines are not wrapped
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_CONTROL_CHARACTERS = 6  # in what tcgetattr gives
_NONE = b"\0"


class Screen:
    """Standard output, a terminal; keys come from standard input if that is one too."""

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None

    def __enter__(self) -> "Screen":
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
            now = termios.tcgetattr(self._keys)
            now[_CONTROL_CHARACTERS][termios.VSUSP] = _NONE  # Ctrl-Z would leave it to the shell like this
            termios.tcsetattr(self._keys, termios.TCSADRAIN, now)
        self._write(_ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(_LEAVE)
        if self._keys is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    @property
    def height(self) -> int:
        """Lines that there are."""
        return shutil.get_terminal_size().lines

    def draw(self, lines: Sequence[str]) -> None:
        """Show these instead of what is there; what is too long is cut off."""
        width, height = shutil.get_terminal_size()
        text = "\n".join(line[:width] + _END_OF_LINE for line in lines[:height])
        self._write(_HOME + text + _REST)

    def wait_for_key(self, key: str, seconds: float) -> bool:
        """Whether it was typed within so many seconds, or nobody can type any more."""
        keys = [] if self._keys is None else [self._keys]
        ready, _, _ = select.select(keys, [], [], seconds)
        if not ready:
            return False
        typed = os.read(ready[0], 100).decode(errors="replace")
        return not typed or key in typed.lower()

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
