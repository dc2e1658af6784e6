"""`mdmw node plan|apply|remove|list|status|detach`: what namespaces of this host need, and have served."""

import argparse
from collections.abc import Callable
from typing import Any

from mdmw.cli import node_control
from mdmw.cli.common import add_json
from mdmw.cli.node_source import add_source
from mdmw.errors import ConfigError


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
    node_control.add_actions(actions)


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
