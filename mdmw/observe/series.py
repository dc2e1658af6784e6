"""The series that mdmw exports: names, labels and HELP texts.

The values of labels are from closed sets: names in the configuration, stages, outcomes, classes of
errors. Nothing that a guest says is in them, no address, id or path.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from mdmw import errors
from mdmw.observe import journal


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A metric: its name, kind, names of labels and HELP text.

    `of_processes` says what the values of a gauge in several processes become: their sum or their minimum.
    """

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    labels: tuple[str, ...]
    help: str
    of_processes: Literal["", "livesum", "livemin"] = ""


#: A series and the values of its labels.
Name = tuple[Series, tuple[str, ...]]

#: What a stage measures: a series, the values of its labels, and the value now. A counter has no label
#: for the pipeline here.
Measurement = tuple[Series, tuple[str, ...], float]

#: Upper bounds of the buckets, in seconds; a cached answer takes 20 us, a guest waits for 10 s.
BUCKETS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

REQUESTS = Series(
    "mdmw_requests_total",
    "counter",
    ("pipeline", "status"),
    "Requests that are over, by class of HTTP status.",
)
ERRORS = Series(
    "mdmw_errors_total",
    "counter",
    ("pipeline", "stage", "error"),
    "Requests that ended in an error, by the last stage that the request came to and by error class.",
)
REQUEST_SECONDS = Series(
    "mdmw_request_duration_seconds",
    "histogram",
    ("pipeline",),
    "Seconds from the start of a request to the end of its answer.",
)
STAGE_SECONDS = Series(
    "mdmw_stage_duration_seconds",
    "histogram",
    ("pipeline", "stage"),
    "Seconds that a request spent in one stage of the pipeline.",
)
CACHE = Series(
    "mdmw_cache_lookups_total",
    "counter",
    ("pipeline", "outcome"),
    "Requests by what the cache of the resolver had for their source: hit, snapshot, miss or stale.",
)

_NOTED = {
    journal.RESOLVER_CALL: ("mdmw_resolver_calls_total", "Questions to the back end of the resolver."),
    journal.RESOLVER_FAILURE: (
        "mdmw_resolver_failures_total",
        "Questions to the back end of the resolver that failed.",
    ),
    journal.CONNECTED: ("mdmw_upstream_connections_total", "Connections that were opened to an upstream."),
    journal.FAILOVER: (
        "mdmw_upstream_failovers_total",
        "Attempts to connect to an address of an upstream that failed.",
    ),
    journal.RETRIED: (
        "mdmw_upstream_retries_total",
        "Requests that were sent a second time because the kept connection to the upstream was dead.",
    ),
    journal.SECOND_PROOF: (
        "mdmw_second_proofs_total",
        "Requests that Nova refused with one shared secret, so that the next shared secret was tried.",
    ),
    journal.FORGED: (
        "mdmw_forged_headers_total",
        "Request headers in which a guest claimed an identity, and which mdmw removed.",
    ),
}
#: The counter of each of `journal.NOTES`.
NOTED = {what: Series(name, "counter", ("pipeline",), text) for what, (name, text) in _NOTED.items()}

PROCESSES = Series(
    "mdmw_processes",
    "gauge",
    ("pipeline",),
    "Serving processes that have answered at least one request.",
    "livesum",
)
SLOTS = Series(
    "mdmw_upstream_slots",
    "gauge",
    ("upstream",),
    "Upstream connection slots: requests that can be sent to an upstream at the same time.",
    "livesum",
)
SLOTS_IN_USE = Series(
    "mdmw_upstream_slots_in_use", "gauge", ("upstream",), "Upstream connection slots in use.", "livesum"
)
WAITING = Series(
    "mdmw_upstream_waiting",
    "gauge",
    ("upstream",),
    "Requests that wait for an upstream connection slot.",
    "livesum",
)
CERTIFICATE = Series(
    "mdmw_certificate_expiry_timestamp_seconds",
    "gauge",
    ("certificate",),
    "Unix time at which a certificate that a process has loaded expires.",
    "livemin",
)
SECRET = Series(
    "mdmw_secret_modified_timestamp_seconds",
    "gauge",
    ("secret",),
    "Unix time of the last change of the file from which a process has loaded a shared secret.",
    "livemin",
)

BUILD = Series(
    "mdmw_build_info",
    "gauge",
    ("version", "python"),
    "Version of mdmw and of Python that answers the scrape; the value is always 1.",
)
NODE_UP = Series(
    "mdmw_node_up", "gauge", (), "1 if the mdmw-node process that wrote the node status file runs, else 0."
)
NODE_START = Series("mdmw_node_start_timestamp_seconds", "gauge", (), "Unix time at which mdmw-node started.")
LISTENERS = Series(
    "mdmw_listeners",
    "gauge",
    ("kind",),
    "Listening sockets of mdmw-node, by kind of scope (network or router).",
)
NAMESPACES = Series(
    "mdmw_namespaces", "gauge", (), "Network namespaces in which mdmw-node has listening sockets."
)
PLAN_ASKED = Series(
    "mdmw_plan_asked_timestamp_seconds",
    "gauge",
    (),
    "Unix time at which the planner of mdmw-node last read its source successfully, 0 for never.",
)
PLAN_APPLIED = Series(
    "mdmw_plan_applied_timestamp_seconds",
    "gauge",
    (),
    "Unix time at which the node was last found as planned, 0 for never.",
)
PLAN_PROBLEMS = Series("mdmw_plan_problems", "gauge", (), "Parts of the plan that could not be applied.")

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
