"""`mdmw networks`, `routers`, `requests` and `instance`: what is served, and what was served lately."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from mdmw.cli.admin_api import Api, add_command, add_scope, printable, scope_of, warn_of_silent
from mdmw.cli.common import table
from mdmw.cli.figures import clock, counters, duration, seconds_of

_PLACE_HEADING = ("LISTENS", "PIPELINE", "REQUESTS", "4XX", "FAILED", "P50", "P99", "SLOWEST", "LAST")
_REQUEST_HEADING = ("TIME", "PIPELINE", "ADDRESS", "INSTANCE", "REQUEST", "STATUS", "TOOK", "CACHE", "ERROR")


def add_parser(commands: Any) -> None:
    """`mdmw networks [ID]` and the like."""
    for kind in ("network", "router"):
        parser = add_command(
            commands,
            f"{kind}s",
            f"list the {kind}s that are served",
            f"The {kind}s that are served on that host: where is listened for their guests, and what each "
            f"pipeline has answered to them so far. Status 1: the {kind} with this ID is not served there.",
            partial(_places, kind),
        )
        parser.add_argument("id", nargs="?", metavar="ID", help=f"this {kind} only; default: all")
    requests = add_command(
        commands,
        "requests",
        "list the last requests of guests",
        "The last requests of guests, the newest first. One that passed several pipelines of that host is "
        "listed by each.",
        _requests,
    )
    add_scope(requests, required=False)
    _add_limit(requests)
    instance = add_command(
        commands,
        "instance",
        "list what was served to an instance lately",
        "The last requests of an instance, the newest first. Status 1: none is remembered.",
        _instance,
    )
    instance.add_argument("id", metavar="ID", help="instance id")
    _add_limit(instance)


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="1 to 1000; default: %(default)s")


# --- networks and routers ---------------------------------------------------------------


def _places(kind: str, api: Api, arguments: argparse.Namespace) -> int:
    kinds = f"{kind}s"
    if arguments.id:
        page = api.get(f"/v1/{kinds}/{quote(arguments.id, safe='')}")
        places, silent = [page[kind]], page["silent"]
    else:
        pages = list(api.pages(kinds))
        page, silent = pages[0], pages[0]["silent"]
        places = [place for each in pages for place in each[kinds]]
    if arguments.json:
        print(json.dumps({kinds: places, "bounds": page["bounds"], "silent": silent}, indent=2))
        return 0
    rows = [row for place in places for row in _rows(place, page["bounds"])]
    print(table([(kind.upper(), *_PLACE_HEADING), *rows]))
    for place in places:
        for problem in place["problems"]:
            print(f"{kind} {printable(place['id'])}: {printable(problem)}")
    warn_of_silent(silent)
    return 0


def _rows(place: Mapping[str, Any], bounds: Sequence[float]) -> Iterator[Sequence[str]]:
    """A line for each pipeline, and at least one."""
    listens = [
        f"{one['address']}:{one['port']} in {one['namespace'] or 'this namespace'}"
        for one in place["listeners"]
    ]
    head = (printable(place["id"]), ", ".join(listens) or "-")
    for one in counters(place["pipelines"]):
        figures = map(str, (one.requests, one.refused, one.failed))
        times = [duration(one.within(bounds, part)) for part in (0.5, 0.99)]
        yield (*head, one.pipeline, *figures, *times, duration(one.slowest), clock(one.last))
        head = ("", "")
    if not place["pipelines"]:
        yield (*head, "-", "0", "0", "0", "-", "-", "-", "-")


# --- requests ---------------------------------------------------------------------------


def _requests(api: Api, arguments: argparse.Namespace) -> int:
    return _shown(api.get("/v1/requests", limit=arguments.limit, **scope_of(arguments)), arguments)


def _instance(api: Api, arguments: argparse.Namespace) -> int:
    found = api.get(f"/v1/instances/{quote(arguments.id, safe='')}", limit=arguments.limit)
    _shown(found, arguments)
    return 0 if found["requests"] else 1


def _shown(found: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(table([_REQUEST_HEADING, *map(_line, found["requests"])]))
    warn_of_silent(found["silent"])
    return 0


def _line(request: Mapping[str, Any]) -> Sequence[str]:
    return (
        clock(seconds_of(request["time"])),
        request["pipeline"],
        request["address"] or "-",
        request["instance"] or "-",
        printable(f"{request['method']} {request['path']}"),
        str(request["status"]),
        duration(request["seconds"]),
        request["cache"] or "-",
        request["error"] or "-",
    )
