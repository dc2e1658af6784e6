"""`mdmw sign`: what Nova should receive as proof."""

import argparse
import json
from typing import Any

from mdmw import options
from mdmw.cli.common import add_ini, add_json, add_pipeline, stage
from mdmw.filters import hmac_sign
from mdmw.signing import nova_signer


def add_parser(commands: Any) -> None:
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
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """Print the signature, 64 hex digits."""
    configured = stage(arguments, "hmac-sign")
    settings = options.load("hmac-sign", hmac_sign.OPTIONS, configured.global_conf, configured.local_conf)
    signature = nova_signer(settings).sign(arguments.instance.encode())
    if arguments.json:
        print(json.dumps({"instance": arguments.instance, "signature": signature}))
    else:
        print(signature)
    return 0
