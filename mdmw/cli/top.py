"""`mdmw top`: a live table of requests per network and router."""

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from mdmw.cli.operate import Api, Counters, add_command, clock, counters, duration, printable, seconds_of
from mdmw.errors import Unavailable

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, without a cursor; long lines are not wrapped
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_CONTROL_CHARACTERS = 6  # in what tcgetattr gives
_NONE = b"\0"


class Screen:
    """Standard output, a terminal; keys come from standard input if that is one too."""

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None

    def __enter__(self) -> "Screen":
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
            now = termios.tcgetattr(self._keys)
            now[_CONTROL_CHARACTERS][termios.VSUSP] = _NONE  # Ctrl-Z would leave it to the shell like this
            termios.tcsetattr(self._keys, termios.TCSADRAIN, now)
        self._write(_ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(_LEAVE)
        if self._keys is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    @property
    def height(self) -> int:
        """Lines that there are."""
        return shutil.get_terminal_size().lines

    def draw(self, lines: Sequence[str]) -> None:
        """Show these instead of what is there; what is too long is cut off."""
        width, height = shutil.get_terminal_size()
        text = "\n".join(line[:width] + _END_OF_LINE for line in lines[:height])
        self._write(_HOME + text + _REST)

    def wait_for_key(self, key: str, seconds: float) -> bool:
        """Whether it was typed within so many seconds, or nobody can type any more."""
        keys = [] if self._keys is None else [self._keys]
        ready, _, _ = select.select(keys, [], [], seconds)
        if not ready:
            return False
        typed = os.read(ready[0], 100).decode(errors="replace")
        return not typed or key in typed.lower()

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


_KINDS = ("network", "router")
_MOST_REQUESTS = 1000  # that are looked through for slow ones
_SLOWEST = 5
_LONGEST_PATH = 60

_PLACE = "{:>7} {:>5} {:>6} {:>8} {:>8} {:>8}  {:<44}  {}"
_PLACE_HEADING = _PLACE.format(
    "REQ/S", "4XX", "FAILED", "P50", "P99", "TOTAL", "NETWORK OR ROUTER", "PIPELINE"
)
_REQUEST = "{:>9} {:>6}  {:<8}  {:<15}  {:<60}  {}"
_REQUEST_HEADING = _REQUEST.format("TOOK", "STATUS", "TIME", "ADDRESS", "SLOWEST REQUESTS", "REQUEST ID")


@dataclass(frozen=True, slots=True)
class Look:
    """All that the API says at one time; of each place the pipeline that is nearest to the guest."""

    at: float  # epoch seconds
    places: Mapping[tuple[str, str], Counters]  # by kind and id
    bounds: Sequence[float]
    requests: Sequence[Mapping[str, Any]]
    silent: Sequence[Mapping[str, Any]]


def look(api: Api) -> Look:
    """Ask the API."""
    pages = {kind: list(api.pages(f"{kind}s")) for kind in _KINDS}
    places = {
        (kind, place["id"]): counters(place["pipelines"])[0]
        for kind in _KINDS
        for page in pages[kind]
        for place in page[f"{kind}s"]
        if place["pipelines"]
    }
    first = pages["network"][0]
    requests = api.get("/v1/requests", limit=_MOST_REQUESTS)["requests"]
    return Look(time.time(), places, first["bounds"], requests, first["silent"])


def view(now: Look, before: Look | None) -> dict[str, Any]:
    """What happened between two looks, or all so far; the busiest places first. Durations are seconds."""
    since = before.at if before else 0.0
    places = [_place(kind, id_, one, now, before) for (kind, id_), one in now.places.items()]
    places.sort(key=lambda place: (-place["rate"], -place["total"], place["id"]))
    return {
        "time": round(now.at, 3),
        "over": round(now.at - before.at, 3) if before else None,
        "networks": [place for place in places if place["kind"] == "network"],
        "routers": [place for place in places if place["kind"] == "router"],
        "slowest": _slowest(request for request in now.requests if seconds_of(request["time"]) >= since),
        "silent": now.silent,
    }


def _place(kind: str, id_: str, total: Counters, now: Look, before: Look | None) -> dict[str, Any]:
    added = total.since(before.places.get((kind, id_)) if before else None)
    over = now.at - (before.at if before else total.first)
    return {
        "kind": kind,
        "id": id_,
        "pipeline": total.pipeline,
        "rate": round(added.requests / max(over, 1.0), 2),
        "requests": added.requests,
        "refused": added.refused,
        "failed": added.failed,
        "p50": added.within(now.bounds, 0.5),
        "p99": added.within(now.bounds, 0.99),
        "total": total.requests,
    }


def _slowest(requests: Iterator[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each once: of the pipelines that it passed, the one in which it took longest saw all of it."""
    slowest: dict[str, Mapping[str, Any]] = {}
    for request in sorted(requests, key=lambda request: -request["seconds"]):
        slowest.setdefault(request["request_id"], request)
        if len(slowest) == _SLOWEST:
            break
    return list(slowest.values())


# --- as text ----------------------------------------------------------------------------


def lines(shown: Mapping[str, Any], height: int | None = None) -> list[str]:
    """A view as lines, at most `height` of them; what is left out is said."""
    slow = [_REQUEST_HEADING, *map(_request, shown["slowest"])]
    places = [*shown["networks"], *shown["routers"]]
    places.sort(key=lambda place: (-place["rate"], -place["total"]))
    room = len(places) if height is None else max(height - len(slow) - 5, 1)
    left_out = [f"... and {len(places) - room} more"] if len(places) > room else []
    table = [_PLACE_HEADING, *map(_line, places[:room]), *left_out]
    silent = [f"without {one['pipeline']} {one['pid']}: {one['problem']}" for one in shown["silent"]]
    return [_summary(shown, places), *silent, "", *table, "", *slow][:height]


def _summary(shown: Mapping[str, Any], places: Sequence[Mapping[str, Any]]) -> str:
    over = f"the last {shown['over']:.0f} s" if shown["over"] else "all so far"
    sums = [sum(place[name] for place in places) for name in ("rate", "refused", "failed")]
    return (
        f"mdmw {clock(shown['time'])}, {over}: {sums[0]:.1f} requests/s, {sums[1]} refused (4xx), "
        f"{sums[2]} failed; {len(shown['networks'])} networks, {len(shown['routers'])} routers"
    )


def _line(place: Mapping[str, Any]) -> str:
    times = (duration(place["p50"]), duration(place["p99"]))
    numbers = (f"{place['rate']:.1f}", place["refused"], place["failed"], *times, place["total"])
    return _PLACE.format(*numbers, f"{place['kind']} {printable(place['id'])}", place["pipeline"])


def _request(request: Mapping[str, Any]) -> str:
    path = printable(f"{request['method']} {request['path']}")
    return _REQUEST.format(
        duration(request["seconds"]),
        request["status"],
        clock(seconds_of(request["time"])),
        request["address"] or "-",
        path if len(path) <= _LONGEST_PATH else f"{path[: _LONGEST_PATH - 3]}...",
        request["request_id"],
    )


_OVER = 10.0  # seconds that figures are about


def add_parser(commands: Any) -> None:
    """`mdmw top`."""
    parser = add_command(
        commands,
        "top",
        "show requests per network, errors and the slowest, live",
        "A live table of networks and routers: requests in a second, errors and latency over the last ten "
        "seconds, and the slowest requests; q or Ctrl-C ends it. Where a request passes several pipelines of "
        "that host, the one nearest to the guest counts. Without a terminal it prints table after table.",
        _top,
    )
    parser.add_argument(
        "--once", action="store_true", help="one look at all requests so far, instead of the last ten seconds"
    )
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="between two looks; default: %(default)g",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("0.1 to 3600 is allowed")
    return seconds


def _top(api: Api, arguments: argparse.Namespace) -> int:
    first = look(api)
    if arguments.once:
        _print(view(first, None), arguments)
        return 0
    # A shell starts what it puts in the background deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # also then the terminal is put right
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    watch = _watch_lines if arguments.json or not sys.stdout.isatty() else _watch
    with contextlib.suppress(KeyboardInterrupt):
        watch(api, _Looks(first), arguments)
    return 0


class _Looks:
    """Those of the last `_OVER` seconds; of the requests only the last ones."""

    def __init__(self, first: Look) -> None:
        self._looks = deque([first])

    def add(self, one: Look) -> None:
        self._looks[-1] = replace(self._looks[-1], requests=())
        self._looks.append(one)
        while one.at - self._looks[1].at >= _OVER:
            self._looks.popleft()

    def view(self) -> dict[str, Any]:
        return view(self._looks[-1], self._looks[0] if len(self._looks) > 1 else None)


def _watch(api: Api, looks: _Looks, arguments: argparse.Namespace) -> None:
    problem = ""
    with Screen() as screen:
        while True:
            shown = lines(looks.view(), screen.height - 1)
            screen.draw([*shown, problem] if problem else shown)
            if screen.wait_for_key("q", arguments.interval):
                return
            try:
                looks.add(look(api))
                problem = ""
            except Unavailable as error:  # it may come back
                problem = str(error)


def _watch_lines(api: Api, looks: _Looks, arguments: argparse.Namespace) -> None:
    while True:
        _print(looks.view(), arguments)
        time.sleep(arguments.interval)
        looks.add(look(api))


def _print(shown: dict[str, Any], arguments: argparse.Namespace) -> None:
    """A table, or a line of JSON."""
    print(json.dumps(shown) if arguments.json else "\n".join([*lines(shown), ""]), flush=True)
