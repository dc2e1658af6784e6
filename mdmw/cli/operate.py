"""Commands over the admin API: `mdmw networks`, `routers`, `requests`, `instance`, `who` and `purge`."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from mdmw.cli.admin_api import Api, add_command, add_scope, scope_of, warn_of_silent
from mdmw.cli.common import table
from mdmw.cli.figures import clock, duration, figures_of, seconds_of
from mdmw.wire import printable

_SCOPE_HEADING = ("LISTENS", "PIPELINE", "REQUESTS", "4XX", "FAILED", "P50", "P99", "SLOWEST", "LAST")
_REQUEST_HEADING = ("TIME", "PIPELINE", "ADDRESS", "INSTANCE", "REQUEST", "STATUS", "TOOK", "CACHE", "ERROR")


def add_parsers(commands: Any) -> None:
    """The commands of this module."""
    _add_networks_and_routers(commands)
    _add_requests(commands)
    _add_who(commands)
    _add_purge(commands)


# --- networks and routers ---------------------------------------------------------------


def _add_networks_and_routers(commands: Any) -> None:
    for kind in ("network", "router"):
        parser = add_command(
            commands,
            f"{kind}s",
            f"list the {kind}s whose guests the host serves",
            f"List the {kind}s whose guests the host serves: the listeners for these guests, and the "
            f"requests that each pipeline has answered. Exit status 1: the host does not serve the {kind} "
            "with this ID.",
            partial(_print_scopes, kind),
        )
        parser.add_argument("id", nargs="?", metavar="ID", help=f"id of one {kind}; default: all {kind}s")


def _print_scopes(kind: str, api: Api, arguments: argparse.Namespace) -> int:
    kinds = f"{kind}s"
    if arguments.id:
        page = api.get(f"/v1/{kinds}/{quote(arguments.id, safe='')}")
        scopes, silent = [page[kind]], page["silent"]
    else:
        pages = list(api.pages(kinds))
        page, silent = pages[0], pages[0]["silent"]
        scopes = [scope for each in pages for scope in each[kinds]]
    if arguments.json:
        print(json.dumps({kinds: scopes, "bounds": page["bounds"], "silent": silent}, indent=2))
        return 0
    rows = [row for scope in scopes for row in _scope_rows(scope, page["bounds"])]
    print(table([(kind.upper(), *_SCOPE_HEADING), *rows]))
    for scope in scopes:
        for problem in scope["problems"]:
            print(printable(f"{kind} {scope['id']}: {problem}"))
    warn_of_silent(silent)
    return 0


def _scope_rows(scope: Mapping[str, Any], bounds: Sequence[float]) -> Iterator[Sequence[str]]:
    """A row for each pipeline, and one row without any pipeline."""
    listeners = [
        f"{one['address']}:{one['port']} in {one['namespace'] or 'this namespace'}"
        for one in scope["listeners"]
    ]
    head = (scope["id"], ", ".join(listeners) or "-")
    for figures in figures_of(scope["pipelines"]):
        counts = map(str, (figures.requests, figures.refused, figures.failed))
        times = [duration(figures.percentile(bounds, part)) for part in (0.5, 0.99)]
        slowest, last = duration(figures.slowest), clock(figures.last)
        yield (*head, figures.pipeline, *counts, *times, slowest, last)
        head = ("", "")
    if not scope["pipelines"]:
        yield (*head, "-", "0", "0", "0", "-", "-", "-", "-")


# --- requests ---------------------------------------------------------------------------


def _add_requests(commands: Any) -> None:
    requests = add_command(
        commands,
        "requests",
        "list the last requests of guests",
        "List the last requests of guests, the newest request first. If a request passed several pipelines "
        "of the host, the list has the request once for each pipeline.",
        _print_requests,
    )
    add_scope(requests, required=False)
    _add_limit(requests)
    instance = add_command(
        commands,
        "instance",
        "list the last requests of an instance",
        "List the last requests of an instance, the newest request first. Exit status 1: the host remembers "
        "no request of this instance.",
        _print_instance,
    )
    instance.add_argument("id", metavar="ID", help="id of the instance")
    _add_limit(instance)


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="most requests that the list may have, 1 to 1000; default: %(default)s",
    )


def _print_requests(api: Api, arguments: argparse.Namespace) -> int:
    found = api.get("/v1/requests", limit=arguments.limit, **scope_of(arguments))
    _print_request_table(found, arguments)
    return 0


def _print_instance(api: Api, arguments: argparse.Namespace) -> int:
    found = api.get(f"/v1/instances/{quote(arguments.id, safe='')}", limit=arguments.limit)
    _print_request_table(found, arguments)
    return 0 if found["requests"] else 1


def _print_request_table(found: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(table([_REQUEST_HEADING, *map(_request_row, found["requests"])]))
    warn_of_silent(found["silent"])


def _request_row(request: Mapping[str, Any]) -> Sequence[str]:
    return (
        clock(seconds_of(request["time"])),
        request["pipeline"],
        request["address"] or "-",
        request["instance"] or "-",
        f"{request['method']} {request['path']}",
        str(request["status"]),
        duration(request["seconds"]),
        request["cache"] or "-",
        request["error"] or "-",
    )


# --- who --------------------------------------------------------------------------------


def _add_who(commands: Any) -> None:
    parser = add_command(
        commands,
        "who",
        "ask the serving processes which instance has an address",
        "Ask a serving process for the instance of an address, as the process would resolve the address for "
        "a request of a guest. The output also says which resolver answered, and what the caches had. Exit "
        "status 1: no instance has the address. The command `mdmw resolve` does the same without a serving "
        "process.",
        _print_who,
    )
    parser.add_argument("address", metavar="ADDRESS", help="address of the guest")
    add_scope(parser, required=True)
    parser.add_argument(
        "--mac", help="MAC of the guest; needed for an IPv6 link-local address without the MAC in it"
    )
    parser.add_argument("--fresh", action="store_true", help="ask the back end, and not the cache")


def _print_who(api: Api, arguments: argparse.Namespace) -> int:
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
        print(table([("FIELD", "VALUE"), *_who_rows(found)]))
        warn_of_silent(found["silent"])
    return 0 if found["instance"] else 1


def _who_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if found["instance"]:
        yield from found["instance"].items()
    else:
        yield "nobody", found["reason"]
    path = found["path"]
    yield "said by", f"{path['resolver']} of {path['pipeline']} {path['pid']}, in {duration(path['seconds'])}"
    yield "cache", path["cache"] or "none"
    yield "questions to the back end", str(path["calls"])
    for cache in found["caches"]:
        content = "; ".join(_cached(cache)) or "nothing"
        yield f"cache of {cache['pipeline']} {cache['pid']}", content


def _cached(cache: Mapping[str, Any]) -> Iterator[str]:
    for answer in cache["answers"]:
        found = f"instance {answer['instance']['id']}" if answer["instance"] else answer["reason"]
        yield f"{found}, {answer['age']:.0f} s old"
    if snapshot := cache["snapshot"]:
        yield f"all ports of this scope, {snapshot['age']:.0f} s old"


# --- purge ------------------------------------------------------------------------------


def _add_purge(commands: Any) -> None:
    parser = add_command(
        commands,
        "purge",
        "empty the caches of the serving processes",
        "Empty the caches of all serving processes, for one network or router or for everything. The "
        "processes then resolve each address again.",
        _purge,
    )
    scope = add_scope(parser, required=True)
    scope.add_argument("--all", action="store_true", help="empty the caches of all networks and routers")


def _purge(api: Api, arguments: argparse.Namespace) -> int:
    done = api.post("/v1/cache:purge", {"all": True} if arguments.all else scope_of(arguments))
    if arguments.json:
        print(json.dumps(done, indent=2))
        return 0
    rows = [(one["pipeline"], one["pid"], one["dropped"]) for one in done["processes"]]
    print(table([("PIPELINE", "PID", "FORGOTTEN"), *rows]))
    warn_of_silent(done["silent"])
    return 0
