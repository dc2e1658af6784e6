"""The series that mdmw exports: their names, labels, and what they say.

The values of labels are from closed sets: names in the configuration, stages, outcomes, classes of
errors. Nothing that a guest says is in them, no address, id or path.
"""

import threading
import weakref
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

from mdmw import errors
from mdmw.observe import journal


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One name. `of_processes` says for a gauge what it is of all processes together."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    labels: tuple[str, ...]
    help: str
    of_processes: Literal["", "livesum", "livemin"] = ""


#: Upper bounds of the buckets, in seconds; a cached answer takes 20 us, a guest waits for 10 s.
BUCKETS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

REQUESTS = Series(
    "mdmw_requests_total", "counter", ("pipeline", "status"), "Requests that are over, by class of status."
)
ERRORS = Series(
    "mdmw_errors_total",
    "counter",
    ("pipeline", "stage", "error"),
    "Requests that ended in an error, by the stage that they came to.",
)
REQUEST_SECONDS = Series(
    "mdmw_request_duration_seconds",
    "histogram",
    ("pipeline",),
    "Time from a request to the end of its answer.",
)
STAGE_SECONDS = Series(
    "mdmw_stage_duration_seconds", "histogram", ("pipeline", "stage"), "Time in one stage of the pipeline."
)
CACHE = Series(
    "mdmw_cache_lookups_total",
    "counter",
    ("pipeline", "outcome"),
    "What the cache had for the source of a request.",
)

_NOTED = {
    journal.RESOLVER_CALL: ("mdmw_resolver_calls_total", "Questions to the back end of the resolver."),
    journal.RESOLVER_FAILURE: ("mdmw_resolver_failures_total", "Those that had no answer."),
    journal.CONNECTED: ("mdmw_upstream_connections_total", "Connections opened to an upstream."),
    journal.FAILOVER: (
        "mdmw_upstream_failovers_total",
        "Addresses of an upstream that could not be connected to.",
    ),
    journal.RETRIED: ("mdmw_upstream_retries_total", "Requests sent again since a kept connection was dead."),
    journal.SECOND_PROOF: (
        "mdmw_second_proofs_total",
        "Requests that Nova refused with one secret; the next was tried.",
    ),
    journal.FORGED: ("mdmw_forged_headers_total", "Headers of guests that claim an identity, removed."),
}
#: By what `note` counts.
NOTED = {what: Series(name, "counter", ("pipeline",), text) for what, (name, text) in _NOTED.items()}

PROCESSES = Series(
    "mdmw_processes", "gauge", ("pipeline",), "Processes that serve and have answered a request.", "livesum"
)
SLOTS = Series(
    "mdmw_upstream_slots",
    "gauge",
    ("upstream",),
    "Requests to an upstream that can be under way at once.",
    "livesum",
)
SLOTS_IN_USE = Series("mdmw_upstream_slots_in_use", "gauge", ("upstream",), "Those that are.", "livesum")
WAITING = Series("mdmw_upstream_waiting", "gauge", ("upstream",), "Requests that wait for a slot.", "livesum")
CERTIFICATE = Series(
    "mdmw_certificate_expiry_timestamp_seconds",
    "gauge",
    ("certificate",),
    "Unix time at which a certificate that a process has loaded is no longer valid.",
    "livemin",
)
SECRET = Series(
    "mdmw_secret_modified_timestamp_seconds",
    "gauge",
    ("secret",),
    "Unix time at which the file was written from which a process has loaded the secret of this option.",
    "livemin",
)

BUILD = Series("mdmw_build_info", "gauge", ("version", "python"), "1; which mdmw answers this.")
NODE_UP = Series("mdmw_node_up", "gauge", (), "Whether the process that wrote the status of the node runs.")
NODE_START = Series("mdmw_node_start_timestamp_seconds", "gauge", (), "Unix time at which mdmw-node began.")
LISTENERS = Series(
    "mdmw_listeners", "gauge", ("kind",), "Sockets of mdmw-node that listen, for networks and routers."
)
NAMESPACES = Series("mdmw_namespaces", "gauge", (), "Namespaces in which they are.")
PLAN_ASKED = Series(
    "mdmw_plan_asked_timestamp_seconds",
    "gauge",
    (),
    "Unix time at which the plan was last known to be right, 0 for never.",
)
PLAN_APPLIED = Series(
    "mdmw_plan_applied_timestamp_seconds",
    "gauge",
    (),
    "Unix time at which the node was last as planned, 0 for never.",
)
PLAN_PROBLEMS = Series("mdmw_plan_problems", "gauge", (), "What of the plan could not be done.")

#: All of them, in the order of the documentation.
ALL = (
    *(REQUESTS, ERRORS, REQUEST_SECONDS, STAGE_SECONDS, CACHE, *NOTED.values()),
    *(PROCESSES, SLOTS, SLOTS_IN_USE, WAITING, CERTIFICATE, SECRET, BUILD),
    *(NODE_UP, NODE_START, LISTENERS, NAMESPACES, PLAN_ASKED, PLAN_APPLIED, PLAN_PROBLEMS),
)

STAGES = ("identify", "resolve", "sign", "verify", "forward", "respond")
OTHER = "other"
_ENDS = frozenset({"GreenletExit", "SystemExit", "KeyboardInterrupt", "GeneratorExit"})


def stage_label(stage: str) -> str:
    """A stage of ours, or `other`."""
    return stage if stage in STAGES else OTHER


def status_label(status: str) -> str:
    """A class of `mdmw.observe.counters`; `none` when there was no answer."""
    return "none" if status in ("0xx", "1xx") else status


@lru_cache(maxsize=256)
def error_label(name: str) -> str:
    """The class of an error: one of `mdmw.errors`, `killed` when the server ended it, or `defect`."""
    if name in _ENDS:
        return "killed"
    kind = next((one for one in _kinds(errors.RequestError) if one.__name__ == name), None)
    known = next((one for one in kind.__mro__ if one.__module__ == errors.__name__), None) if kind else None
    return _snake(known.__name__) if known else "defect"


def _kinds(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(each for one in kind.__subclasses__() for each in _kinds(one))]


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


#: A series and the values of its labels.
Name = tuple[Series, tuple[str, ...]]


class Occupied(Protocol):
    """Slots of an upstream, and those who wait for one."""

    upstream: str
    size: int

    @property
    def in_use(self) -> int:
        """Slots that are taken."""

    @property
    def waiting(self) -> int:
        """How many wait."""


_lock = threading.Lock()
_slots: "weakref.WeakSet[Occupied]" = weakref.WeakSet()
_told: dict[Name, float] = {}


def watch(slots: Occupied) -> None:
    """Have `slots` in the numbers as long as they exist."""
    with _lock:
        _slots.add(slots)


def certificate_expires(name: str, at: float) -> None:
    """A certificate was loaded that is good until `at` (Unix time)."""
    _told[CERTIFICATE, (name,)] = at


def secret_written(name: str, at: float) -> None:
    """A secret was loaded from a file that was written at `at` (Unix time)."""
    _told[SECRET, (name,)] = at


def read() -> Mapping[Name, float]:
    """The numbers as they are now."""
    with _lock:
        watched = list(_slots)
    numbers: defaultdict[Name, float] = defaultdict(float, _told)
    for slots in watched:
        label = (slots.upstream,)
        numbers[SLOTS, label] += slots.size
        numbers[SLOTS_IN_USE, label] += slots.in_use
        numbers[WAITING, label] += slots.waiting
    return numbers
