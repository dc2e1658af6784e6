"""`mdmw resolve`: which instance would that be?"""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from mdmw.cli.common import add_ini, add_json, add_pipeline, stage, table
from mdmw.errors import BadRequest, NotIdentified, Unavailable
from mdmw.filters.instance_resolve import make_resolver
from mdmw.records import Scope, Source, normalise_address, normalise_mac


def add_parser(commands: Any) -> None:
    """`mdmw resolve --network ID|--router ID --address IP`."""
    parser = commands.add_parser(
        "resolve",
        help="say which instance has an address",
        description="Ask the resolver of a pipeline as a request would. Status 0 found, 1 not found.",
    )
    scope = parser.add_mutually_exclusive_group(required=True)
    scope.add_argument("--network", metavar="ID", help="the network that the guest is on")
    scope.add_argument("--router", metavar="ID", help="the router that the guest is behind")
    parser.add_argument("--address", required=True, metavar="IP", help="the guest's address")
    parser.add_argument("--mac", help="the guest's MAC, for an IPv6 link-local address that does not tell")
    add_pipeline(parser, default="agent")
    add_ini(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the instance, or why there is none."""
    scope = Scope("network", arguments.network) if arguments.network else Scope("router", arguments.router)
    try:
        mac = normalise_mac(arguments.mac) if arguments.mac else None
        source = Source(normalise_address(arguments.address), scope, mac)
    except (BadRequest, ValueError) as error:
        parser.error(str(error))
    configured = stage(arguments, "instance-resolve")
    resolver = make_resolver(configured.global_conf, configured.local_conf)
    try:
        instance = resolver.resolve(source, fresh=True)
    except (NotIdentified, BadRequest, Unavailable) as error:
        print(f"mdmw: {error}", file=sys.stderr)
        return 1
    found = asdict(instance)
    print(json.dumps(found) if arguments.json else table([("FIELD", "VALUE"), *found.items()]))
    return 0
