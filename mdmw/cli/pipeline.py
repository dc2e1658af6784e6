"""`mdmw check`: is this file right, and what does it mean?"""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from mdmw import options
from mdmw.cli.common import add_ini, add_json, add_pipeline, stage, table
from mdmw.errors import BadRequest, NotIdentified, Unavailable
from mdmw.filters import hmac_sign
from mdmw.filters.instance_resolve import make_resolver
from mdmw.records import Scope, Source, normalise_address, normalise_mac
from mdmw.signing import nova_signer
from mdmw.wsgi import catalogue, pipelines


def add_check(commands: Any) -> None:
    """`mdmw check [PIPELINE ...]`."""
    parser = commands.add_parser(
        "check",
        help="load an ini file and print its pipelines",
        description="Load every pipeline of an ini file, or those named, and print each as a table of "
        "stages and options, secrets masked. What is wrong is said in one line, with status 2.",
    )
    parser.add_argument("pipeline", nargs="*", help="pipelines to check; default: all in the file")
    add_ini(parser)
    add_json(parser)
    parser.set_defaults(run=check)


def check(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """Print the tables; `ConfigError` for the first thing that is wrong."""
    path = arguments.ini or pipelines.ini_file()
    wanted = arguments.pipeline or pipelines.names(path)
    for name in wanted:
        pipelines.load(name, path)
    checked = catalogue.pipelines(path, wanted)
    if arguments.json:
        print(json.dumps(checked, indent=2))
        return 0
    print(f"{path}: good")
    for name, stages in checked["pipelines"].items():
        print(f"\npipeline {name}")
        print(table([("STAGE", "USE", "OPTION", "VALUE"), *_rows(stages)]))
    return 0


def _rows(stages: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    rows = []
    for one in stages:
        head = (one["stage"], one["use"])
        for option, value in one["options"].items() or [("", "")]:
            rows.append((*head, option, value))
            head = ("", "")
    return rows


def add_resolve(commands: Any) -> None:
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
    parser.set_defaults(run=resolve)


def resolve(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
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


def add_sign(commands: Any) -> None:
    """`mdmw sign INSTANCE`."""
    parser = commands.add_parser(
        "sign",
        help="print the signature of an instance id",
        description="Print the X-Instance-ID-Signature of an instance id, made with the signing secret of a "
        "pipeline. Whoever has it can read that instance's metadata from Nova.",
    )
    parser.add_argument("instance", metavar="INSTANCE", help="instance id, taken as it is written")
    add_pipeline(parser, default="agent")
    add_ini(parser)
    add_json(parser)
    parser.set_defaults(run=sign)


def sign(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """Print the signature, 64 hex digits."""
    configured = stage(arguments, "hmac-sign")
    settings = options.load("hmac-sign", hmac_sign.OPTIONS, configured.global_conf, configured.local_conf)
    signature = nova_signer(settings).sign(arguments.instance.encode())
    if arguments.json:
        print(json.dumps({"instance": arguments.instance, "signature": signature}))
    else:
        print(signature)
    return 0
