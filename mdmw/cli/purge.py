"""`mdmw purge`: have the running processes forget who is who."""

import argparse
import json
from typing import Any

from mdmw.cli.admin_api import Api, add_command, add_scope, scope_of, warn_of_silent
from mdmw.cli.common import table


def add_parser(commands: Any) -> None:
    """`mdmw purge --network ID|--router ID|--all`."""
    parser = add_command(
        commands,
        "purge",
        "have the processes that serve forget who is who",
        "Empty the caches of all serving processes, for one network or router, or whole.",
        _purge,
    )
    add_scope(parser, required=True).add_argument("--all", action="store_true", help="everything")


def _purge(api: Api, arguments: argparse.Namespace) -> int:
    done = api.post("/v1/cache:purge", {"all": True} if arguments.all else scope_of(arguments))
    if arguments.json:
        print(json.dumps(done, indent=2))
        return 0
    rows = [(one["pipeline"], one["pid"], one["dropped"]) for one in done["processes"]]
    print(table([("PIPELINE", "PID", "FORGOTTEN"), *rows]))
    warn_of_silent(done["silent"])
    return 0
