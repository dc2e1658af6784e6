"""`mdmw node plan|apply|remove|list|status|detach`: what namespaces of this host need, and have served."""

import argparse
import datetime
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mdmw.cli.common import add_json, table
from mdmw.errors import ConfigError
from mdmw.node.channel import Message, to_bind, to_scope
from mdmw.node.control import ask_again, called


def add_source(parser: argparse._ActionsContainer) -> None:
    """`--file`, `--config-file` and `--set`, for `given`."""
    parser.add_argument("--file", metavar="FILE", help="inventory that says what there is, without Neutron")
    parser.add_argument(
        "--config-file",
        action="append",
        default=[],
        metavar="FILE",
        help="options, as in Neutron's dhcp_agent.ini and l3_agent.ini; may be repeated, the last wins",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option, before those of the files; may be repeated",
    )


def given(arguments: argparse.Namespace) -> Mapping[str, str]:
    """The options by name; raises `ConfigError`."""
    options = {"config_file": ",".join(arguments.config_file)} if arguments.config_file else {}
    for word in arguments.set:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--set {name}: NAME=VALUE is allowed")
        options[name] = value
    if arguments.file:
        options["inventory"] = arguments.file
    return options


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


def add_parser(commands: Any) -> None:
    """`mdmw node ACTION`."""
    parser = commands.add_parser(
        "node",
        help="plan and apply what the namespaces of a network node need; ask mdmw-node",
        description="Addresses, routes, rules and DHCP, so that 169.254.169.254 answers; and mdmw-node, that "
        "answers there.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "plan",
        help="print the plan, and what is not so yet",
        description="Print what must be there and what would be done, without touching anything. Without "
        "root it says what it could not see. Status 0: all is so; 1: something is to be done.",
    )
    add_source(show)
    add_json(show)
    show.set_defaults(run=_command("show"))
    apply = actions.add_parser(
        "apply",
        help="make it so",
        description="Make it so, and print what was done. A second run does nothing, and says so. Status 1: "
        "not all of it could be done.",
    )
    add_source(apply)
    apply.add_argument("--once", action="store_true", required=True, help="once; mdmw-node does it for ever")
    apply.set_defaults(run=_command("apply"))
    remove = actions.add_parser(
        "remove",
        help="take away all that was made",
        description="Take away all that `mdmw node apply` and mdmw-node made here, and print what was done. "
        "Neutron is not asked. Status 1: not all of it could be done.",
    )
    add_source(remove)
    remove.set_defaults(run=_command("remove"))
    add_actions(actions)


def _command(name: str) -> Callable[[argparse.Namespace, argparse.ArgumentParser], int]:
    """A function of `mdmw.cli.node_commands`, which needs what only network nodes have installed."""

    def run(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
        try:
            from mdmw.cli import node_commands

            status: int = getattr(node_commands, name)(arguments)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{error.name} is not installed; install mdmw[node]") from None
        return status

    return run
