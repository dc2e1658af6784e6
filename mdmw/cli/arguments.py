"""The command lines of the daemons: what init scripts wrote for oslo.config's parser is taken."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from mdmw.errors import ConfigError


class DaemonParser(argparse.ArgumentParser):
    """Takes `--some-option` and `--some_option` alike; what is wrong is a `ConfigError`, one line."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog="Exit status: 0 done, 2 wrong usage or configuration.",
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        self.add_argument("--version", action="version", version=version("mdmw"))

    def add_switch(self, name: str, help: str) -> None:
        """`--name` and `--noname`; the value is the text "true" or "false"."""
        dest = name.replace("-", "_")
        self.add_argument(f"--{name}", dest=dest, action="store_const", const="true", help=help)
        self.add_argument(f"--no{name}", dest=dest, action="store_const", const="false", help="the opposite")

    def add_log_options(self) -> None:
        """Where the log goes, and how much of it."""
        self.add_argument("--log-file", "--logfile", metavar="PATH", help="default: standard error or output")
        self.add_argument("--log-dir", "--logdir", metavar="PATH", help="directory of the log file")
        self.add_switch("use-syslog", "log to syslog")
        self.add_argument("--syslog-log-facility", metavar="FACILITY", help="default: LOG_USER")
        self.add_switch("debug", "log more")
        self.add_switch("verbose", "taken for the sake of old init scripts; has no effect")

    def given(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """What is on the command line, by option name with underscores; raises `ConfigError`."""
        words = sys.argv[1:] if argv is None else argv
        return vars(self.parse_args([_hyphenated(word) for word in words]))

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _hyphenated(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word
