"""The admin API with a token of Keystone: who asks is said by clouds.yaml, or by the OS_* variables."""

import argparse
import json
import logging
import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from http import HTTPStatus
from itertools import accumulate
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from mdmw.cli.common import add_json, table
from mdmw.errors import BackendError, BackendSlow, ConfigError, MdmwError, NotFound, Unavailable
from mdmw.upstream.address import parse_address
from mdmw.upstream.exchange import Limits, Upstream
from mdmw.upstream.transport import read_whole

#: Method, target and body of a request -> status and body of its answer.
Exchange = Callable[[str, str, bytes], tuple[int, bytes]]


SOCKET = "/run/mdmw/admin"
URL_VARIABLE = "MDMW_ADMIN_URL"


_OF_KEYSTONE = ("OS_CLOUD", "OS_AUTH_URL", URL_VARIABLE)
_LIMITS = Limits(read_timeout=35.0, total_timeout=40.0)  # a resolver may take 30 s
_PAGE = 1000
_TRANSIENT = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class Command(Protocol):
    """What a command does with the API: it prints, and returns the exit status."""

    def __call__(self, api: "Api", arguments: argparse.Namespace) -> int: ...


def add_command(commands: Any, name: str, help: str, description: str, run: Command) -> Any:
    """The parser of a command that asks the API, with the options that say where it is."""
    parser = commands.add_parser(name, help=help, description=description)
    where = parser.add_argument_group(
        "where the admin API is",
        f"Without these, and without OS_CLOUD, OS_AUTH_URL and {URL_VARIABLE} in the environment: {SOCKET}. "
        "The user at Keystone comes from the usual OS_* variables or from clouds.yaml.",
    )
    where.add_argument("--socket", metavar="PATH", help="its unix socket, for the pipeline admin-local")
    where.add_argument("--os-cloud", metavar="NAME", help="the cloud of clouds.yaml; default: $OS_CLOUD")
    where.add_argument(
        "--url",
        metavar="URL",
        help=f"https://HOST:PORT; default: ${URL_VARIABLE}, or the service mdmw of the catalog",
    )
    add_json(parser)
    parser.set_defaults(run=partial(_run, run))
    return parser


def add_scope(parser: argparse.ArgumentParser, required: bool) -> Any:
    """`--network ID` or `--router ID`."""
    scope = parser.add_mutually_exclusive_group(required=required)
    scope.add_argument("--network", metavar="ID", help="the network that guests are on")
    scope.add_argument("--router", metavar="ID", help="the router that guests are behind")
    return scope


def scope_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The scope as the API takes it; empty for none."""
    return {kind: id_ for kind in ("network", "router") if (id_ := getattr(arguments, kind))}


def _run(run: Command, arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.socket and (arguments.os_cloud or arguments.url):
        parser.error("--socket is for an API without Keystone; --os-cloud and --url are for one with it")
    logging.getLogger().addHandler(logging.NullHandler())  # what libraries warn of is in our errors
    try:
        with _exchange(arguments) as exchange:
            return run(Api(exchange), arguments)
    except (NotFound, Unavailable) as error:
        print(f"mdmw: {error}", file=sys.stderr)
        return 1


def _exchange(arguments: argparse.Namespace) -> AbstractContextManager[Exchange]:
    by_keystone = arguments.os_cloud or arguments.url or any(map(os.environ.get, _OF_KEYSTONE))
    if arguments.socket or not by_keystone:
        return _over_socket(arguments.socket or SOCKET)
    try:
        from mdmw.cli.admin_keystone import over_keystone
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; install mdmw[cli], or use --socket") from None
    return over_keystone(
        arguments.os_cloud, arguments.url or os.environ.get(URL_VARIABLE), _LIMITS.total_timeout
    )


@contextmanager
def _over_socket(path: str) -> Iterator[Exchange]:
    try:
        address = parse_address(f"unix:{os.path.abspath(path)}", "http", 80)  # noqa: PTH100 - pathlib keeps `..`
    except ValueError as error:
        raise ConfigError(f"--socket: {error}") from None
    upstream = Upstream([address], _LIMITS)

    def exchange(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        headers = [("Accept", "application/json")]
        headers += [("Content-Type", "application/json")] if body else []
        try:
            answer = upstream.exchange(method, target, headers, body)
            return answer.status, read_whole(answer)
        except (BackendError, BackendSlow) as error:
            raise Unavailable(str(error)) from None

    with closing(upstream):
        yield exchange


class Api:
    """Asks, and raises what the API answers instead: `NotFound`, `Unavailable`, `ConfigError`."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def get(self, path: str, **query: Any) -> Any:
        """The answer to GET; what is None is not asked."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(given)}" if given else path, b"")

    def post(self, path: str, document: Any) -> Any:
        """The answer to POST."""
        return self._ask("POST", path, json.dumps(document).encode())

    def pages(self, kinds: str) -> Iterator[dict[str, Any]]:
        """The parts of a list, `networks` or `routers`."""
        marker = None
        while True:
            page = self.get(f"/v1/{kinds}", limit=_PAGE, marker=marker)
            yield page
            if not page["next"]:
                return
            marker = page[kinds][-1]["id"]

    def _ask(self, method: str, target: str, body: bytes) -> Any:
        status, said = self._exchange(method, target, body)
        try:
            document = json.loads(said, object_hook=_Object)
        except ValueError:
            document = None
        if not isinstance(document, _Object):
            raise Unavailable(f"that is not the admin API of mdmw: it answers {status} without its JSON")
        if status == HTTPStatus.OK:
            return document
        error = document["error"]
        if not isinstance(error, _Object):
            raise Unavailable(f"that is not the admin API of mdmw: it answers {status} with {error!r}")
        raise _refusal(status, printable(f"{error['message']} ({error['request_id']})"))


class _Object(dict[str, Any]):
    """A part of an answer: one that lacks what a command needs is somebody else's."""

    def __missing__(self, name: str) -> Any:
        raise Unavailable(f"that is not the admin API of mdmw: its answer has no {name!r}")


def _refusal(status: int, message: str) -> MdmwError:
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(message)
    if status in _TRANSIENT:
        return Unavailable(message)
    return ConfigError(f"the admin API answers {status}: {message}")


# --- what several commands print --------------------------------------------------------


def printable(text: str) -> str:
    """Text of guests, in which nothing moves the cursor or turns the line around."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def warn_of_silent(silent: list[Mapping[str, Any]]) -> None:
    """Name on stderr the processes without whose answer the rest was told."""
    for one in silent:
        print(f"mdmw: without {one['pipeline']} {one['pid']}: {one['problem']}", file=sys.stderr)


# Where a request passes several pipelines of one host, who is nearest to the guest has seen all of it.
_NEAREST_FIRST = ("proxy", "combined", "standalone", "agent", "nova")


@dataclass(frozen=True, slots=True)
class Counters:
    """Requests of a place: how many, and by how long they took. Times are epoch seconds.

    The last of `durations` counts those above the last of the bounds.
    """

    pipeline: str
    requests: int
    refused: int  # 4xx
    failed: int  # 5xx, and those that got no answer
    durations: tuple[int, ...]
    slowest: float
    first: float
    last: float

    def since(self, before: "Counters | None") -> "Counters":
        """What was added; all of it when processes began anew meanwhile. `slowest` stays that of all."""
        if before is None or before.pipeline != self.pipeline or before.requests > self.requests:
            return self
        return replace(
            self,
            requests=self.requests - before.requests,
            refused=self.refused - before.refused,
            failed=self.failed - before.failed,
            durations=tuple(now - then for now, then in zip(self.durations, before.durations, strict=True)),
        )

    def within(self, bounds: Sequence[float], part: float) -> float | None:
        """Seconds within which this part of the requests was answered, interpolated; None without any."""
        sums = [0, *accumulate(self.durations)]
        wanted = part * sums[-1]
        if not wanted:
            return None
        bucket = bisect_left(sums, wanted) - 1
        if bucket >= len(bounds):
            return self.slowest
        below = bounds[bucket - 1] if bucket else 0.0
        width = bounds[bucket] - below
        return min(below + width * (wanted - sums[bucket]) / self.durations[bucket], self.slowest)


def counters(pipelines: Mapping[str, Any]) -> list[Counters]:
    """Those of a place's `pipelines`, as the API gives them, the nearest to the guest first."""
    return sorted((_counters(name, given) for name, given in pipelines.items()), key=_distance)


def seconds_of(time: str) -> float:
    """Epoch seconds of a time as the API writes it."""
    return datetime.fromisoformat(time).timestamp()


def _counters(pipeline: str, given: Mapping[str, Any]) -> Counters:
    statuses = given["statuses"]
    return Counters(
        pipeline,
        given["requests"],
        statuses.get("4xx", 0),
        statuses.get("5xx", 0) + statuses.get("0xx", 0),
        tuple(given["durations"]),
        given["slowest"],
        seconds_of(given["first"]),
        seconds_of(given["last"]),
    )


def _distance(one: Counters) -> tuple[int, str]:
    known = one.pipeline in _NEAREST_FIRST
    return (_NEAREST_FIRST.index(one.pipeline) if known else _NEAREST_FIRST.index("agent"), one.pipeline)


# --- as text ----------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """As `1.2 ms` or `3.4 s`; `-` for None."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def clock(seconds: float) -> str:
    """The local time of day, with the date when that is another."""
    then = datetime.fromtimestamp(seconds)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M:%S")


_PLACE_HEADING = ("LISTENS", "PIPELINE", "REQUESTS", "4XX", "FAILED", "P50", "P99", "SLOWEST", "LAST")
_REQUEST_HEADING = ("TIME", "PIPELINE", "ADDRESS", "INSTANCE", "REQUEST", "STATUS", "TOOK", "CACHE", "ERROR")


def add_served(commands: Any) -> None:
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


def add_purge(commands: Any) -> None:
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


def add_who(commands: Any) -> None:
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
