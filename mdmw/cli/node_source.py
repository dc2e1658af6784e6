"""The options that say what the plan of a node is made from: `--file`, `--config-file` and `--set`.

Imports nothing of mdmw but errors, because the keeper imports it.
"""

import argparse
from collections.abc import Mapping

from mdmw.errors import ConfigError


def add_source(parser: argparse._ActionsContainer) -> None:
    """Add the options that `given` reads."""
    parser.add_argument(
        "--file", metavar="FILE", help="inventory file to plan from, on a host without Neutron"
    )
    parser.add_argument(
        "--config-file",
        action="append",
        default=[],
        metavar="FILE",
        help="file with options, such as Neutron's dhcp_agent.ini and l3_agent.ini; may be given several "
        "times, and then the last file wins",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set one option; wins over the files of --config-file; may be given several times",
    )


def given(arguments: argparse.Namespace) -> Mapping[str, str]:
    """The options of a command line, by name, for `mdmw.node.settings.load`; raises `ConfigError`."""
    options = {"config_file": ",".join(arguments.config_file)} if arguments.config_file else {}
    for word in arguments.set:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--set {name}: NAME=VALUE is allowed")
        options[name] = value
    if arguments.file:
        options["inventory"] = arguments.file
    return options
