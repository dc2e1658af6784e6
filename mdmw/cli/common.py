"""What several commands share: the option for the ini file, tables, stages by entry point."""

import argparse
from collections.abc import Iterable, Sequence

from mdmw.errors import ConfigError
from mdmw.wsgi import pipelines


def add_ini(parser: argparse.ArgumentParser) -> None:
    """`--ini FILE`."""
    parser.add_argument(
        "--ini",
        metavar="FILE",
        help="paste file; default: $MDMW_PASTE_INI, ./etc/api-paste.ini, /etc/mdmw/api-paste.ini, "
        "the packaged copy",
    )


def add_pipeline(parser: argparse.ArgumentParser, default: str) -> None:
    """`--pipeline NAME`."""
    parser.add_argument(
        "--pipeline", default=default, metavar="NAME", help=f"pipeline to take the options from ({default})"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def stage(arguments: argparse.Namespace, entry_point: str) -> pipelines.Stage:
    """The stage of `--pipeline` that uses `entry_point`; `ConfigError` when there is none."""
    path = arguments.ini or pipelines.ini_file()
    for found in pipelines.stages(path, arguments.pipeline):
        if found.entry_point == entry_point:
            return found
    raise ConfigError(f"{path}: [pipeline:{arguments.pipeline}] has no {entry_point}")


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as aligned columns, the first row being the heading."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
