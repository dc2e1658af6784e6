"""What `mdmw top` shows: the difference between two looks at the counters, and the slowest requests."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdmw.cli.admin_api import Api, printable
from mdmw.cli.figures import Counters, clock, counters, duration, seconds_of

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
