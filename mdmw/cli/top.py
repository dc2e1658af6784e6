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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from mdmw.cli.admin_api import Api, add_command
from mdmw.cli.figures import RequestFigures, clock, duration, figures_of, seconds_of
from mdmw.errors import Unavailable
from mdmw.wire import printable

_INTERVAL = 10.0  # seconds that the figures are about
_KINDS = ("network", "router")
_MOST_REQUESTS = 1000  # in which the slowest are found
_SLOWEST = 5
_LONGEST_PATH = 60

_SCOPE_ROW = "{:>7} {:>5} {:>6} {:>8} {:>8} {:>8}  {:<44}  {}"
_SCOPE_HEADING = _SCOPE_ROW.format(
    "REQ/S", "4XX", "FAILED", "P50", "P99", "TOTAL", "NETWORK OR ROUTER", "PIPELINE"
)
_REQUEST_ROW = "{:>9} {:>6}  {:<8}  {:<15}  {:<60}  {}"
_REQUEST_HEADING = _REQUEST_ROW.format("TOOK", "STATUS", "TIME", "ADDRESS", "SLOWEST REQUESTS", "REQUEST ID")

# Terminal: the other screen without a cursor, on which long lines are not wrapped.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_CONTROL_CHARACTERS = 6  # position in the list of tcgetattr
_NO_CHARACTER = b"\0"


def add_parser(commands: Any) -> None:
    """`mdmw top`."""
    parser = add_command(
        commands,
        "top",
        "show requests, errors and the slowest requests of each network, live",
        "Show a live table of networks and routers: requests in a second, errors and latency over the last "
        "ten seconds, and the slowest requests. The key q or Ctrl-C ends the command. If a request passes "
        "several pipelines of the host, the pipeline nearest to the guest counts. Without a terminal, the "
        "command prints one table after another.",
        _top,
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="print one table of all requests so far, instead of the last ten seconds, and end",
    )
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="time between two tables; default: %(default)g",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("0.1 to 3600 is allowed")
    return seconds


def _top(api: Api, arguments: argparse.Namespace) -> int:
    first = take_sample(api)
    if arguments.once:
        _print(summary(first, None), arguments)
        return 0
    # A shell lets a process in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # these signals must restore the terminal too
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    show = _print_tables if arguments.json or not sys.stdout.isatty() else _draw_tables
    with contextlib.suppress(KeyboardInterrupt):
        show(api, _RecentSamples(first), arguments)
    return 0


# --- figures ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of the API at one time. `scopes` has the figures of the pipeline nearest to the guest.

    `at` is in seconds since 1970. The keys of `scopes` are kind and id of a network or router.
    """

    at: float
    scopes: Mapping[tuple[str, str], RequestFigures]
    bounds: Sequence[float]
    requests: Sequence[Mapping[str, Any]]
    silent: Sequence[Mapping[str, Any]]


def take_sample(api: Api) -> Sample:
    """Ask the API for its state."""
    pages = {kind: list(api.pages(f"{kind}s")) for kind in _KINDS}
    scopes = {
        (kind, scope["id"]): figures_of(scope["pipelines"])[0]
        for kind in _KINDS
        for page in pages[kind]
        for scope in page[f"{kind}s"]
        if scope["pipelines"]
    }
    first = pages["network"][0]
    requests = api.get("/v1/requests", limit=_MOST_REQUESTS)["requests"]
    return Sample(time.time(), scopes, first["bounds"], requests, first["silent"])


class _RecentSamples:
    """The samples of the last `_INTERVAL` seconds. Only the last sample keeps its requests."""

    def __init__(self, first: Sample) -> None:
        self._samples = deque([first])

    def add(self, sample: Sample) -> None:
        self._samples[-1] = replace(self._samples[-1], requests=())
        self._samples.append(sample)
        while sample.at - self._samples[1].at >= _INTERVAL:
            self._samples.popleft()

    def summary(self) -> dict[str, Any]:
        return summary(self._samples[-1], self._samples[0] if len(self._samples) > 1 else None)


def summary(now: Sample, before: Sample | None) -> dict[str, Any]:
    """The difference of two samples, or all so far; the busiest scopes first. Durations are in seconds."""
    since = before.at if before else 0.0
    scopes = [_scope_summary(kind, id_, total, now, before) for (kind, id_), total in now.scopes.items()]
    scopes.sort(key=lambda scope: (-scope["rate"], -scope["total"], scope["id"]))
    return {
        "time": round(now.at, 3),
        "over": round(now.at - before.at, 3) if before else None,
        "networks": [scope for scope in scopes if scope["kind"] == "network"],
        "routers": [scope for scope in scopes if scope["kind"] == "router"],
        "slowest": _slowest(request for request in now.requests if seconds_of(request["time"]) >= since),
        "silent": now.silent,
    }


def _scope_summary(
    kind: str, id_: str, total: RequestFigures, now: Sample, before: Sample | None
) -> dict[str, Any]:
    added = total.since(before.scopes.get((kind, id_)) if before else None)
    over = now.at - (before.at if before else total.first)
    return {
        "kind": kind,
        "id": id_,
        "pipeline": total.pipeline,
        "rate": round(added.requests / max(over, 1.0), 2),
        "requests": added.requests,
        "refused": added.refused,
        "failed": added.failed,
        "p50": added.percentile(now.bounds, 0.5),
        "p99": added.percentile(now.bounds, 0.99),
        "total": total.requests,
    }


def _slowest(requests: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The slowest requests, each once: in the pipeline in which the request took longest."""
    slowest: dict[str, Mapping[str, Any]] = {}
    for request in sorted(requests, key=lambda request: -request["seconds"]):
        slowest.setdefault(request["request_id"], request)
        if len(slowest) == _SLOWEST:
            break
    return list(slowest.values())


# --- as text ----------------------------------------------------------------------------


def as_lines(shown: Mapping[str, Any], height: int | None = None) -> list[str]:
    """A summary as at most `height` lines without control characters."""
    slow = [_REQUEST_HEADING, *map(_request_line, shown["slowest"])]
    scopes = [*shown["networks"], *shown["routers"]]
    scopes.sort(key=lambda scope: (-scope["rate"], -scope["total"]))
    room = len(scopes) if height is None else max(height - len(slow) - 5, 1)
    left_out = [f"... and {len(scopes) - room} more"] if len(scopes) > room else []
    table = [_SCOPE_HEADING, *map(_scope_line, scopes[:room]), *left_out]
    silent = [f"without {one['pipeline']} {one['pid']}: {one['problem']}" for one in shown["silent"]]
    lines = [_first_line(shown, scopes), *silent, "", *table, "", *slow][:height]
    return [printable(line) for line in lines]


def _first_line(shown: Mapping[str, Any], scopes: Sequence[Mapping[str, Any]]) -> str:
    over = f"the last {shown['over']:.0f} s" if shown["over"] else "all so far"
    sums = [sum(scope[name] for scope in scopes) for name in ("rate", "refused", "failed")]
    return (
        f"mdmw {clock(shown['time'])}, {over}: {sums[0]:.1f} requests/s, {sums[1]} refused (4xx), "
        f"{sums[2]} failed; {len(shown['networks'])} networks, {len(shown['routers'])} routers"
    )


def _scope_line(scope: Mapping[str, Any]) -> str:
    times = (duration(scope["p50"]), duration(scope["p99"]))
    numbers = (f"{scope['rate']:.1f}", scope["refused"], scope["failed"], *times, scope["total"])
    return _SCOPE_ROW.format(*numbers, f"{scope['kind']} {scope['id']}", scope["pipeline"])


def _request_line(request: Mapping[str, Any]) -> str:
    path = f"{request['method']} {request['path']}"
    return _REQUEST_ROW.format(
        duration(request["seconds"]),
        request["status"],
        clock(seconds_of(request["time"])),
        request["address"] or "-",
        path if len(path) <= _LONGEST_PATH else f"{path[: _LONGEST_PATH - 3]}...",
        request["request_id"],
    )


def _print(shown: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print a table, or a line of JSON."""
    print(json.dumps(shown) if arguments.json else "\n".join([*as_lines(shown), ""]), flush=True)


def _print_tables(api: Api, samples: _RecentSamples, arguments: argparse.Namespace) -> None:
    while True:
        _print(samples.summary(), arguments)
        time.sleep(arguments.interval)
        samples.add(take_sample(api))


# --- the terminal -----------------------------------------------------------------------


class Screen:
    """Standard output as a terminal; keys come from standard input if that is a terminal too."""

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None

    def __enter__(self) -> "Screen":
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
            now = termios.tcgetattr(self._keys)
            now[_CONTROL_CHARACTERS][termios.VSUSP] = (
                _NO_CHARACTER  # Ctrl-Z would leave this screen to the shell
            )
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
        """Number of lines of the terminal."""
        return shutil.get_terminal_size().lines

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines instead of the lines before; cut lines that are too long."""
        width, height = shutil.get_terminal_size()
        text = "\n".join(line[:width] + _END_OF_LINE for line in lines[:height])
        self._write(_HOME + text + _REST)

    def wait_for_key(self, key: str, seconds: float) -> bool:
        """Whether somebody typed the key within so many seconds, or standard input has ended."""
        keys = [] if self._keys is None else [self._keys]
        ready, _, _ = select.select(keys, [], [], seconds)
        if not ready:
            return False
        typed = os.read(ready[0], 100).decode(errors="replace")
        return not typed or key in typed.lower()

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _draw_tables(api: Api, samples: _RecentSamples, arguments: argparse.Namespace) -> None:
    problem = ""
    with Screen() as screen:
        while True:
            lines = as_lines(samples.summary(), screen.height - 1)
            screen.draw([*lines, problem] if problem else lines)
            if screen.wait_for_key("q", arguments.interval):
                return
            try:
                samples.add(take_sample(api))
                problem = ""
            except Unavailable as error:  # the API may come back
                problem = printable(str(error))
