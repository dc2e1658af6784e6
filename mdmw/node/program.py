"""A program that serves a namespace, as a value."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """dnsmasq or radvd: its directory, what it is called with, and the files that it reads again on SIGHUP.

    It goes into the background once it serves, and writes a pid file.
    """

    directory: Path
    argv: tuple[str, ...]
    files: tuple[tuple[Path, str], ...]

    @property
    def name(self) -> str:
        """Without a path."""
        return self.argv[0]

    @property
    def pid_file(self) -> Path:
        """Written by the program."""
        return self.directory / "pid"
