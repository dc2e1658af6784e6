"""`mdmw top`: a live table of requests per network and router."""

import argparse
import contextlib
import json
import signal
import sys
import time
from collections import deque
from dataclasses import replace
from typing import Any

from mdmw.cli.admin_api import Api, add_command
from mdmw.cli.screen import Screen
from mdmw.cli.top_view import Look, lines, look, view
from mdmw.errors import Unavailable

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
