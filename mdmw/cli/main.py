"""The command `mdmw`: the parser of all commands, and the exit status."""

import argparse
import sys
from collections.abc import Sequence

from mdmw.cli import completion, demo, doctor, inventory, node, operate, pipeline, serve, top
from mdmw.errors import MdmwError

_INTERRUPTED = 130  # the exit status of a shell after SIGINT
_ADD_PARSERS = (
    serve.add_parser,
    pipeline.add_parsers,
    inventory.add_parser,
    node.add_parser,
    operate.add_parsers,
    top.add_parser,
    doctor.add_parser,
    demo.add_parser,
    completion.add_parser,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the reference of the commands is made from this parser too."""
    parser = argparse.ArgumentParser(
        prog="mdmw",
        description="Instance metadata as a WSGI pipeline.",
        epilog="Exit status: 0 success, 1 the answer is no, 2 wrong usage or a mistake in the configuration.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add_parser in _ADD_PARSERS:
        add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments, parser)
    except MdmwError as error:
        print(f"mdmw: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status
