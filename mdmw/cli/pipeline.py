"""Commands about a pipeline of an ini file, without a server: `mdmw check`, `resolve` and `sign`."""

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


def add_parsers(commands: Any) -> None:
    """The commands of this module."""
    _add_check(commands)
    _add_resolve(commands)
    _add_sign(commands)


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="load the pipelines of an ini file and print their options",
        description="Load all pipelines of an ini file, or the named pipelines, and print the stages and the "
        "options of each pipeline. Stars stand in the place of a secret. If the file has a mistake, the "
        "command prints one line and ends with status 2.",
    )
    parser.add_argument(
        "pipeline", nargs="*", help="names of the pipelines; default: all pipelines of the file"
    )
    add_ini(parser)
    add_json(parser)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """Raises `ConfigError` for the first mistake."""
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


def _add_resolve(commands: Any) -> None:
    parser = commands.add_parser(
        "resolve",
        help="ask a resolver which instance has an address",
        description="Ask the resolver of a pipeline which instance has an address. The command needs no "
        "serving process. Exit status 1: no instance has the address, or the resolver does not answer.",
    )
    scope = parser.add_mutually_exclusive_group(required=True)
    scope.add_argument("--network", metavar="ID", help="id of the network that the guest is on")
    scope.add_argument("--router", metavar="ID", help="id of the router that the guest is behind")
    parser.add_argument("--address", required=True, metavar="IP", help="address of the guest")
    parser.add_argument(
        "--mac", help="MAC of the guest; needed for an IPv6 link-local address without the MAC in it"
    )
    add_pipeline(parser, default="agent")
    add_ini(parser)
    add_json(parser)
    parser.set_defaults(run=_resolve)


def _resolve(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
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


def _add_sign(commands: Any) -> None:
    parser = commands.add_parser(
        "sign",
        help="print the signature of an instance id",
        description="Print the header X-Instance-ID-Signature for an instance id. The signature is made with "
        "the shared secret of a pipeline. Keep the signature secret: with it, anybody can read the metadata "
        "of the instance from Nova.",
    )
    parser.add_argument(
        "instance", metavar="INSTANCE", help="id of the instance; the command signs the text as it is"
    )
    add_pipeline(parser, default="agent")
    add_ini(parser)
    add_json(parser)
    parser.set_defaults(run=_sign)


def _sign(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """The signature has 64 hexadecimal digits."""
    configured = stage(arguments, "hmac-sign")
    settings = options.load("hmac-sign", hmac_sign.OPTIONS, configured.global_conf, configured.local_conf)
    signature = nova_signer(settings).sign(arguments.instance.encode())
    if arguments.json:
        print(json.dumps({"instance": arguments.instance, "signature": signature}))
    else:
        print(signature)
    return 0
