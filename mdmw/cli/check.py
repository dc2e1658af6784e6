"""`mdmw check`: is this file right, and what does it mean?"""

import argparse
import json
from typing import Any

from mdmw.cli.common import add_ini, add_json, table
from mdmw.wsgi import described, pipelines


def add_parser(commands: Any) -> None:
    """`mdmw check [PIPELINE ...]`."""
    parser = commands.add_parser(
        "check",
        help="load an ini file and print its pipelines",
        description="Load every pipeline of an ini file, or those named, and print each as a table of "
        "stages and options, secrets masked. What is wrong is said in one line, with status 2.",
    )
    parser.add_argument("pipeline", nargs="*", help="pipelines to check; default: all in the file")
    add_ini(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """Print the tables; `ConfigError` for the first thing that is wrong."""
    path = arguments.ini or pipelines.ini_file()
    wanted = arguments.pipeline or pipelines.names(path)
    for name in wanted:
        pipelines.load(name, path)
    checked = described.pipelines(path, wanted)
    if arguments.json:
        print(json.dumps(checked, indent=2))
        return 0
    print(f"{path}: good")
    for name, stages in checked["pipelines"].items():
        print(f"\npipeline {name}")
        print(table([("STAGE", "USE", "OPTION", "VALUE"), *_rows(stages)]))
    return 0


def _rows(stages: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    rows = []
    for stage in stages:
        head = (stage["stage"], stage["use"])
        for option, value in stage["options"].items() or [("", "")]:
            rows.append((*head, option, value))
            head = ("", "")
    return rows
