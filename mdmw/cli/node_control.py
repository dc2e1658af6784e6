"""`mdmw node list|status|detach`: what the mdmw-node that runs here says, and what one may tell it."""

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

from mdmw.cli.common import add_json, table
from mdmw.node.channel import Message, to_bind, to_scope
from mdmw.node.control import ask_again, called

_SOCKET = "/run/mdmw/node.sock"


def add_actions(actions: Any) -> None:
    """The actions, into those of `mdmw node`."""
    listing = actions.add_parser(
        "list",
        help="what the running mdmw-node listens to",
        description="Each listener of the running mdmw-node: whose it is, since when, and the connections "
        "that its workers have accepted and have open.",
    )
    status = actions.add_parser(
        "status", help="how the running mdmw-node is", description="How the running mdmw-node is."
    )
    detach = actions.add_parser(
        "detach",
        help="no longer serve what mdmw-haproxy attached",
        description="No longer listen for an attachment. Its process goes on; Neutron notices nothing.",
    )
    detach.add_argument("name", help="id of the network or router")
    for parser, run in ((listing, _list), (status, _status), (detach, _detach)):
        parser.add_argument("--socket", metavar="PATH", default=_SOCKET, help="default: %(default)s")
        parser.set_defaults(run=run)
    add_json(listing)
    add_json(status)


def _list(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    found = _ask(arguments, "list")
    if arguments.json:
        print(json.dumps([dict(message.fields) for message in found], indent=2))
        return 0
    rows = [("NAMESPACE", "AT", "FOR", "BY", "SINCE", "CONNECTIONS", "OPEN")]
    print(table([*rows, *(_row(message) for message in found)]))
    return 0


def _row(message: Message) -> tuple[str, ...]:
    fields = message.fields
    at, scope = to_bind(fields["bind"]), to_scope(fields["scope"])
    by = "plan" if fields["owner"] == "plan" else "mdmw-haproxy"
    numbers = (str(fields["connections"]), str(fields["open"]))
    return (fields["namespace"] or "-", str(at), str(scope), by, _time(fields["since"]), *numbers)


def _status(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    message, *problems = _ask(arguments, "status")
    shown = dict(message.fields)
    lines = [problem.fields["what"] for problem in problems]
    if arguments.json:
        print(json.dumps(shown | {"problems": lines}, indent=2))
        return 0
    planned = f"{time.time() - shown['planned']:.0f} seconds ago" if shown["planned"] else "-"
    shown |= {"since": _time(shown["since"]), "planned": planned}
    print("\n".join(f"{name:10} {value}" for name, value in shown.items()))
    print("".join(f"problem: {line}\n" for line in lines), end="")
    return 0


def _detach(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    def ask() -> None:
        with called(Path(arguments.socket)) as caller:
            caller.tell("detach", name=arguments.name)

    ask_again(ask)
    return 0


def _ask(arguments: argparse.Namespace, kind: str) -> list[Message]:
    """The answer; raises `ControlError`, which says when nobody is there."""
    with called(Path(arguments.socket)) as caller:
        return list(caller.ask(kind))


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
