"""`mdmw doctor`: what is wrong on the way of a guest's packets, and the command that mends it."""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdmw.cli.common import add_json
from mdmw.cli.node import add_source, given
from mdmw.errors import BadRequest, ConfigError
from mdmw.records import Scope, is_uuid, normalise_address

if TYPE_CHECKING:
    from mdmw.doctor.examine import Report
    from mdmw.doctor.findings import Finding

_WIDTH = 98  # of 100 columns: a backslash may follow
_WITHIN, _LONGEST = 2.0, 60  # seconds
_MOST = 20  # findings that are printed for people
_WELL, _WARNINGS, _FAULTS = range(3)


def add_parser(commands: Any) -> None:
    """`mdmw doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="name the fault between guests and their metadata",
        description="Walk the path of guests' packets on this host, as root, within 3 seconds, and touch "
        "nothing. What is wrong is told in the order of the path, the cause first, with how it is known and "
        "the command that mends it.",
        epilog="Exit status: 0 nothing is wrong, 1 warnings only, 2 a fault; 2 for wrong usage too.",
    )
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--network", metavar="ID", help="this network only")
    scope.add_argument("--router", metavar="ID", help="this router only")
    parser.add_argument("--address", metavar="IP", help="the guest with this address, where it may be")
    parser.add_argument("--ini", metavar="FILE", help="paste file; default: that of the running daemon")
    parser.add_argument("--pipeline", metavar="NAME", help="the pipeline of that file that asks Nova")
    add_source(parser)
    parser.add_argument(
        "--run-dir", metavar="DIR", default="/run/mdmw", help="of mdmw-node; default: %(default)s"
    )
    parser.add_argument(
        "--within",
        type=_seconds,
        default=_WITHIN,
        metavar="SECONDS",
        help="what is not known then is left out; default: %(default)s, and Python needs one to start",
    )
    add_json(parser)
    parser.add_argument(
        "--guest", action="store_true", help="print a script of POSIX shell to be run inside a guest, and end"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print what was found."""
    if arguments.guest:
        print((resources.files("mdmw.doctor") / "guest.sh").read_text(), end="")
        return _WELL
    scope = _scope(arguments, parser)
    try:
        address = normalise_address(arguments.address) if arguments.address else None
    except BadRequest as error:
        parser.error(str(error))
    try:
        from mdmw.doctor.deployment import Asked
        from mdmw.doctor.examine import examine
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; install mdmw[node]") from None
    asked = Asked(
        scope,
        address,
        arguments.ini,
        arguments.pipeline,
        tuple(arguments.config_file),
        given(arguments),
        Path(arguments.run_dir),
    )
    report = examine(asked, arguments.within)
    print(json.dumps(_shown(report), indent=2) if arguments.json else "\n".join(_lines(report)))
    sys.stdout.flush()
    return _status(report)


def _seconds(text: str) -> float:
    if not (text.isdecimal() and 0 < int(text) <= _LONGEST):
        raise argparse.ArgumentTypeError(f"1 to {_LONGEST} is allowed")
    return float(text)


def _scope(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> Scope | None:
    text = arguments.network or arguments.router
    if not text:
        return None
    if not is_uuid(text):
        parser.error(f"{text!r} is not a UUID")
    return Scope("network" if arguments.network else "router", text.lower())


def _status(report: "Report") -> int:
    severities = {one.finding.severity for one in report.found}
    return _FAULTS if "fault" in severities else _WARNINGS if severities else _WELL


# --- as text ----------------------------------------------------------------------------


def _lines(report: "Report") -> Iterator[str]:
    if not report.found:
        yield "Nothing is wrong, in what was looked at." if report.left_out else "Nothing is wrong."
        yield ""
    for one in report.found[:_MOST]:
        yield from _told(one.finding)
        if one.consequences:
            kinds = ", ".join(dict.fromkeys(each.kind for each in one.consequences))
            yield from _wrapped("  so also   ", kinds)
        yield ""
    if len(report.found) > _MOST:
        yield f"... and {len(report.found) - _MOST} more; --json has them all"
    for head, texts in (("checked: ", report.checked), ("left out: ", report.left_out)):
        if texts:
            yield from _wrapped(head, "; ".join(texts))
    yield f"took {report.seconds:.1f} s"


def _told(finding: "Finding") -> Iterator[str]:
    text = f"{finding.severity.upper()} {finding.kind}: {finding.where}: {finding.what}"
    yield from _wrapped("", text)
    yield from _wrapped("  known by  ", finding.how)
    for number, line in enumerate(finding.mend):
        yield from _shell("            " if number else "  mend by   ", line)


def _wrapped(head: str, text: str, before: str = "") -> Iterator[str]:
    """No line is longer than the terminal, but for a word that is; ids and paths stay whole."""
    yield from textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * (len(head) or 2) + before,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _shell(head: str, line: str) -> Iterator[str]:
    """A line of shell that can be copied, however long it is."""
    if line.startswith("#"):
        yield from _wrapped(head, line, before="# ")
        return
    *lines, last = _wrapped(head, line, before="  ")
    yield from (f"{one} \\" for one in lines)
    yield last


# --- as JSON ----------------------------------------------------------------------------


def _shown(report: "Report") -> dict[str, Any]:
    return {
        "status": ("well", "warnings", "faults")[_status(report)],
        "findings": [
            {**_fields(one.finding), "consequences": [_fields(each) for each in one.consequences]}
            for one in report.found
        ],
        "checked": report.checked,
        "left_out": report.left_out,
        "seconds": round(report.seconds, 3),
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
