"""What several commands share: common options, tables, and the parser of the daemons."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from mdmw.errors import ConfigError
from mdmw.options import hyphenated
from mdmw.wire import printable
from mdmw.wsgi import pipelines


def add_ini(parser: argparse.ArgumentParser) -> None:
    """`--ini FILE`."""
    parser.add_argument(
        "--ini",
        metavar="FILE",
        help="paste file; default: $MDMW_PASTE_INI, or the first that exists of ./etc/api-paste.ini, "
        "/etc/mdmw/api-paste.ini and the file of the package",
    )


def add_pipeline(parser: argparse.ArgumentParser, default: str) -> None:
    """`--pipeline NAME`."""
    parser.add_argument(
        "--pipeline",
        default=default,
        metavar="NAME",
        help=f"pipeline whose options are used; default: {default}",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def stage(arguments: argparse.Namespace, entry_point: str) -> pipelines.Stage:
    """The stage of `--pipeline` that uses `entry_point`; raises `ConfigError` if there is none."""
    path = arguments.ini or pipelines.ini_file()
    for found in pipelines.stages(path, arguments.pipeline):
        if found.entry_point == entry_point:
            return found
    raise ConfigError(f"{path}: [pipeline:{arguments.pipeline}] has no stage {entry_point}")


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as aligned columns without control characters; the first row is the heading."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


class DaemonParser(argparse.ArgumentParser):
    """The parser of a daemon: an option may have hyphens or underscores; a mistake is a `ConfigError`."""

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
        self.add_argument(
            f"--no{name}", dest=dest, action="store_const", const="false", help=f"the opposite of --{name}"
        )

    def add_log_options(self) -> None:
        """The options that say where the log goes, and how much is logged."""
        self.add_argument(
            "--log-file", "--logfile", metavar="PATH", help="log file; default: standard error or output"
        )
        self.add_argument("--log-dir", "--logdir", metavar="PATH", help="directory of the log file")
        self.add_switch("use-syslog", "log to syslog")
        self.add_argument(
            "--syslog-log-facility", metavar="FACILITY", help="facility of syslog; default: LOG_USER"
        )
        self.add_switch("debug", "also log messages for debugging")
        self.add_switch("verbose", "no effect; accepted because old init scripts have this option")

    def given(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """The options of the command line, by name with underscores; raises `ConfigError`."""
        words = sys.argv[1:] if argv is None else argv
        return vars(self.parse_args([hyphenated(word) for word in words]))

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")
