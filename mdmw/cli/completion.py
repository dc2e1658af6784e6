"""`mdmw completion`: the library shtab makes a script for tab completion from the parser of `mdmw`."""

import argparse
from collections.abc import Iterator
from typing import Any

_SHELLS = ("bash", "zsh", "tcsh")
#: Placeholder of an argument in the help text -> attribute of shtab that completes such an argument.
_COMPLETED_AS = {"FILE": "FILE", "PATH": "FILE", "DIR": "DIRECTORY"}


def add_parser(commands: Any) -> None:
    """`mdmw completion SHELL`."""
    parser = commands.add_parser(
        "completion",
        help="print a script for tab completion",
        description="Print a script that completes commands and options. bash loads the script from "
        "/etc/bash_completion.d/mdmw. zsh loads the script from a file _mdmw in a directory of $fpath.",
    )
    parser.add_argument("shell", choices=_SHELLS, help="shell that reads the script")
    parser.set_defaults(run=_print_script)


def _print_script(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    import shtab  # only this command needs the library

    for action in _actions(parser):
        if action.metavar in _COMPLETED_AS:
            action.complete = getattr(shtab, _COMPLETED_AS[action.metavar])  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of the parsers of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
