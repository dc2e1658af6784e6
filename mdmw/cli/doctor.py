"""`mdmw doctor`: the fault on the way of a guest's packets, and the command that mends the fault."""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdmw.cli.common import add_json
from mdmw.cli.node_source import add_source, given
from mdmw.errors import BadRequest, ConfigError
from mdmw.records import Scope, is_uuid, normalise_address
from mdmw.wire import printable

if TYPE_CHECKING:
    from mdmw.doctor.examine import Examination
    from mdmw.doctor.findings import Finding

_WIDTH = 98  # of 100 columns: a backslash may follow
_WITHIN, _MOST_SECONDS = 2.0, 60
_MOST_PRINTED = 20  # findings in the text
_WELL, _WARNINGS, _FAULTS = range(3)


def add_parser(commands: Any) -> None:
    """`mdmw doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="name the fault between guests and their metadata",
        description="Check the path of the guests' packets on this host, as root, within 3 seconds. The "
        "command changes nothing. The output has the cause of the fault first, then how the doctor knows "
        "the fault, and then the commands that mend the fault.",
        epilog="Exit status: 0 nothing is wrong, 1 there are warnings only, 2 a fault or wrong usage.",
    )
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--network", metavar="ID", help="check only this network")
    scope.add_argument("--router", metavar="ID", help="check only this router")
    parser.add_argument("--address", metavar="IP", help="check the guest with this address")
    parser.add_argument(
        "--ini", metavar="FILE", help="paste file; default: the paste file of the running mdmw-node"
    )
    parser.add_argument("--pipeline", metavar="NAME", help="pipeline of the paste file that asks Nova")
    add_source(parser)
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        default="/run/mdmw",
        help="directory with the control socket of mdmw-node; default: %(default)s",
    )
    parser.add_argument(
        "--within",
        type=_seconds,
        default=_WITHIN,
        metavar="SECONDS",
        help="stop after this many seconds and report only what was found; default: %(default)s. To start, "
        "Python needs about one more second",
    )
    add_json(parser)
    parser.add_argument(
        "--guest", action="store_true", help="print a shell script that checks a guest from inside, and end"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.guest:
        print((resources.files("mdmw.doctor") / "guest.sh").read_text(), end="")
        return _WELL
    scope = _scope(arguments, parser)
    try:
        address = normalise_address(arguments.address) if arguments.address else None
    except BadRequest as error:
        parser.error(str(error))
    try:
        from mdmw.doctor.configuration import Question
        from mdmw.doctor.examine import examine
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; install mdmw[node]") from None
    question = Question(
        scope,
        address,
        arguments.ini,
        arguments.pipeline,
        tuple(arguments.config_file),
        given(arguments),
        Path(arguments.run_dir),
    )
    found = examine(question, arguments.within)
    print(json.dumps(_as_json(found), indent=2) if arguments.json else "\n".join(_as_text(found)))
    sys.stdout.flush()
    return _status(found)


def _seconds(text: str) -> float:
    if not (text.isdecimal() and 0 < int(text) <= _MOST_SECONDS):
        raise argparse.ArgumentTypeError(f"1 to {_MOST_SECONDS} is allowed")
    return float(text)


def _scope(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> Scope | None:
    text = arguments.network or arguments.router
    if not text:
        return None
    if not is_uuid(text):
        parser.error(f"{text!r} is not a UUID")
    return Scope("network" if arguments.network else "router", text.lower())


def _status(found: "Examination") -> int:
    severities = {cause.finding.severity for cause in found.causes}
    return _FAULTS if "fault" in severities else _WARNINGS if severities else _WELL


# --- as text ----------------------------------------------------------------------------


def _as_text(found: "Examination") -> Iterator[str]:
    if not found.causes:
        yield "Nothing is wrong, in what was looked at." if found.left_out else "Nothing is wrong."
        yield ""
    for cause in found.causes[:_MOST_PRINTED]:
        yield from _finding_lines(cause.finding)
        if cause.consequences:
            kinds = ", ".join(dict.fromkeys(one.kind for one in cause.consequences))
            yield from _wrapped("  so also   ", kinds)
        yield ""
    if len(found.causes) > _MOST_PRINTED:
        yield f"... and {len(found.causes) - _MOST_PRINTED} more findings; --json prints all findings"
    for head, texts in (("checked: ", found.checked), ("left out: ", found.left_out)):
        if texts:
            yield from _wrapped(head, "; ".join(texts))
    yield f"took {found.seconds:.1f} s"


def _finding_lines(finding: "Finding") -> Iterator[str]:
    text = f"{finding.severity.upper()} {finding.kind}: {finding.where}: {finding.what}"
    yield from _wrapped("", text)
    yield from _wrapped("  known by  ", finding.how)
    for number, line in enumerate(finding.mend):
        yield from _shell_lines("            " if number else "  mend by   ", line)


def _wrapped(head: str, text: str, before: str = "") -> Iterator[str]:
    """Lines that fit the terminal, except for a single longer word; ids and paths are not broken.

    A text may have words of a peer, so no control character of the text is printed.
    """
    yield from textwrap.wrap(
        printable(text),
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * (len(head) or 2) + before,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _shell_lines(head: str, line: str) -> Iterator[str]:
    """A shell command, or a comment, that can be copied whatever its length."""
    if line.startswith("#"):
        yield from _wrapped(head, line, before="# ")
        return
    *lines, last = _wrapped(head, line, before="  ")
    yield from (f"{one} \\" for one in lines)
    yield last


# --- as JSON ----------------------------------------------------------------------------


def _as_json(found: "Examination") -> dict[str, Any]:
    return {
        "status": ("well", "warnings", "faults")[_status(found)],
        "findings": [
            {**_fields(cause.finding), "consequences": [_fields(one) for one in cause.consequences]}
            for cause in found.causes
        ],
        "checked": found.checked,
        "left_out": found.left_out,
        "seconds": round(found.seconds, 3),
    }


def _fields(finding: "Finding") -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "where": finding.where,
        "what": finding.what,
        "how": finding.how,
        "mend": finding.mend,
    }
