"""Where the plan of a node comes from, on the command lines of `mdmw node` and `mdmw-node`."""

import argparse
from collections.abc import Mapping

from mdmw.errors import ConfigError


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
