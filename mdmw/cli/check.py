"""`mdmw check`: is this file right, and what does it mean?"""

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from mdmw import options
from mdmw.cli.common import add_ini, add_json, table
from mdmw.filters import instance_resolve
from mdmw.wsgi import catalogue, pipelines

_SECRET_NAME = re.compile("secret|password|token|key", re.IGNORECASE)


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
    checked = {}
    for name in arguments.pipeline or pipelines.names(path):
        pipelines.load(name, path)
        checked[name] = [
            {"stage": stage.section, "use": stage.entry_point, "options": _options(stage)}
            for stage in pipelines.stages(path, name)
        ]
    if arguments.json:
        print(json.dumps({"file": str(path), "pipelines": checked}, indent=2))
        return 0
    print(f"{path}: good")
    for name, stages in checked.items():
        print(f"\npipeline {name}")
        print(table([("STAGE", "USE", "OPTION", "VALUE"), *_rows(stages)]))
    return 0


def _options(stage: pipelines.Stage) -> dict[str, str]:
    """What the stage runs with: options that are given, or are not at their default."""
    given = stage.local_conf
    known = _known_options(stage)
    if known is None:
        return {name: "****" if _SECRET_NAME.search(name) else value for name, value in given.items()}
    settings = options.load(stage.entry_point, known, stage.global_conf, given)
    values = {opt: getattr(settings, opt.dest) for opt in known}
    return {
        opt.dest: options.shown(opt, value)
        for opt, value in values.items()
        if opt.dest in given or value != opt.default
    }


def _known_options(stage: pipelines.Stage) -> Sequence[cfg.Opt] | None:
    if stage.entry_point == "instance-resolve":
        return instance_resolve.section_options(stage.global_conf, stage.local_conf)[1]
    return catalogue.OPTIONS.get(stage.entry_point)


def _rows(stages: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    rows = []
    for stage in stages:
        head = (stage["stage"], stage["use"])
        for option, value in stage["options"].items() or [("", "")]:
            rows.append((*head, option, value))
            head = ("", "")
    return rows
