"""`mdmw who`: which instance is that, and what do the running processes make of it?"""

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mdmw.cli.admin_api import Api, add_command, add_scope, printable, scope_of, warn_of_silent
from mdmw.cli.common import table
from mdmw.cli.figures import duration


def add_parser(commands: Any) -> None:
    """`mdmw who ADDRESS --network ID|--router ID`."""
    parser = add_command(
        commands,
        "who",
        "say which instance an address is to the processes that serve",
        "Have a serving process find the instance of an address, as for a request of a guest, and say how it "
        "was found and what the caches had. Status 1: there is no such instance. mdmw resolve does so by "
        "itself, without a serving process.",
        _who,
    )
    parser.add_argument("address", metavar="ADDRESS", help="the guest's address")
    add_scope(parser, required=True)
    parser.add_argument("--mac", help="the guest's MAC, for an IPv6 link-local address that does not tell")
    parser.add_argument("--fresh", action="store_true", help="not out of a cache")


def _who(api: Api, arguments: argparse.Namespace) -> int:
    found = api.get(
        "/v1/resolve",
        address=arguments.address,
        mac=arguments.mac,
        fresh="true" if arguments.fresh else None,
        **scope_of(arguments),
    )
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(table([("FIELD", "VALUE"), *((name, printable(value)) for name, value in _fields(found))]))
        warn_of_silent(found["silent"])
    return 0 if found["instance"] else 1


def _fields(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if found["instance"]:
        yield from found["instance"].items()
    else:
        yield "nobody", found["reason"]
    path = found["path"]
    yield "said by", f"{path['resolver']} of {path['pipeline']} {path['pid']}, in {duration(path['seconds'])}"
    yield "cache", path["cache"] or "none"
    yield "questions to the back end", str(path["calls"])
    for cache in found["caches"]:
        yield f"cache of {cache['pipeline']} {cache['pid']}", "; ".join(_remembered(cache)) or "nothing"


def _remembered(cache: Mapping[str, Any]) -> Iterator[str]:
    for answer in cache["answers"]:
        who = f"instance {answer['instance']['id']}" if answer["instance"] else answer["reason"]
        yield f"{who}, {answer['age']:.0f} s old"
    if snapshot := cache["snapshot"]:
        yield f"all ports of this scope, {snapshot['age']:.0f} s old"
