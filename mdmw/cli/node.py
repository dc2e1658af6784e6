"""`mdmw node plan|apply|remove|list|status|detach`: plan and apply what a node needs, and ask mdmw-node."""

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdmw.cli.common import add_json, table
from mdmw.cli.node_source import add_source
from mdmw.errors import ConfigError
from mdmw.node.channel import Message, to_bind, to_scope
from mdmw.node.control import DEFAULT_PATH, ask_again, called


def add_parser(commands: Any) -> None:
    """Add `mdmw node ACTION`."""
    parser = commands.add_parser(
        "node",
        help="plan and apply what the namespaces of a network node need; ask mdmw-node",
        description="Plan and apply what the namespaces of this host need so that guests get metadata: "
        "addresses, routes, packet-filter rules and DHCP. Or ask the running mdmw-node, which serves the "
        "guests.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    plan = actions.add_parser(
        "plan",
        help="print the plan, and what must be changed",
        description="Print what each namespace needs, and the changes that `mdmw node apply` would make. "
        "Nothing is changed. Without root, the command names the namespaces that it cannot inspect. Exit "
        "status: 0 nothing must be changed, 1 something must be changed.",
    )
    add_source(plan)
    add_json(plan)
    plan.set_defaults(run=_command("show"))
    apply = actions.add_parser(
        "apply",
        help="change the host until it is as planned",
        description="Make the changes that `mdmw node plan` prints, and print each change. A second run "
        "changes nothing, and says so. Exit status: 0 the host is as planned, 1 a change could not be made.",
    )
    add_source(apply)
    apply.add_argument(
        "--once", action="store_true", required=True, help="apply once and end; mdmw-node applies for ever"
    )
    apply.set_defaults(run=_command("apply"))
    remove = actions.add_parser(
        "remove",
        help="remove all that mdmw made on this host",
        description="Remove all that `mdmw node apply` and mdmw-node made on this host, and print each "
        "change. Neutron is not asked. Exit status: 0 nothing is left, 1 a change could not be made.",
    )
    add_source(remove)
    remove.set_defaults(run=_command("remove"))
    _add_questions(actions)


def _add_questions(actions: Any) -> None:
    """The actions that ask the running mdmw-node."""
    listing = actions.add_parser(
        "list",
        help="list the listeners of the running mdmw-node",
        description="List the listeners of the running mdmw-node: the network or router that each is for, "
        "the time at which it was opened, the connections that the workers have accepted, and the "
        "connections that are open.",
    )
    status = actions.add_parser(
        "status",
        help="show the state of the running mdmw-node",
        description="Show the state of the running mdmw-node: its process id, its start, the numbers of its "
        "listeners, attachments and workers, and the problems with its plan.",
    )
    detach = actions.add_parser(
        "detach",
        help="stop serving a namespace that mdmw-haproxy attached",
        description="Close the listeners of a namespace that mdmw-haproxy attached. The process that "
        "Neutron's agent watches goes on, so the agent notices nothing.",
    )
    detach.add_argument("name", help="id of the network or router")
    for parser, run in ((listing, _list), (status, _status), (detach, _detach)):
        parser.add_argument(
            "--socket",
            metavar="PATH",
            default=DEFAULT_PATH,
            help="control socket of mdmw-node; default: %(default)s",
        )
        parser.set_defaults(run=run)
    add_json(listing)
    add_json(status)


def _command(name: str) -> Callable[[argparse.Namespace, argparse.ArgumentParser], int]:
    """A function of `mdmw.cli.node_commands`, whose libraries only network nodes have installed."""

    def run(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
        try:
            from mdmw.cli import node_commands

            status: int = getattr(node_commands, name)(arguments)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{error.name} is not installed; install mdmw[node]") from None
        return status

    return run


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
        with called(Path(arguments.socket)) as client:
            client.tell("detach", name=arguments.name)

    ask_again(ask)
    return 0


def _ask(arguments: argparse.Namespace, kind: str) -> list[Message]:
    """The answer of mdmw-node; raises `ControlError`."""
    with called(Path(arguments.socket)) as client:
        return list(client.ask(kind))


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
