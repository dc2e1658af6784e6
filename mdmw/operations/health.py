"""health: whether this process runs, and whether this host can answer guests, or guests of one network.

Reads: the path, Accept.
Answers: GET /live, /ready, /ready/networks/ID and /ready/routers/ID with 200, or with 503 and the names of
the checks that failed.
Place: the end of a pipeline on a listener of its own; no guest may reach this pipeline.
"""

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg
from webob import Request, Response

from mdmw.boundary.stage import App, Terminal
from mdmw.errors import MethodNotAllowed, NotFound, Unavailable
from mdmw.observe import node_status
from mdmw.observe.node_status import NodeStatus
from mdmw.observe.processes import Reply, ask
from mdmw.options import load
from mdmw.records import Environ, Scope, is_uuid
from mdmw.wire import printable

OPTIONS = [
    cfg.StrOpt(
        "introspect_dir",
        default="/run/mdmw/processes",
        help="Directory with the introspection sockets of the serving processes. This process must run as "
        "root, or as the user of the serving processes.",
    ),
    cfg.StrOpt(
        "node_status_file",
        default="/run/mdmw/node-status.json",
        help="File in which mdmw-node describes its listeners and its plan. Without the file, /ready checks "
        "neither.",
    ),
    cfg.ListOpt(
        "pipelines",
        default=[],
        help="Pipelines of which at least one process must answer. Default: the pipelines that have an "
        "introspection socket.",
    ),
    cfg.FloatOpt(
        "plan_max_age",
        default=300.0,
        min=1,
        help="Seconds after which /ready fails if mdmw-node does not know whether its plan is still right, "
        "or could not apply its plan.",
    ),
]

_REMEMBERED = 1.0  # seconds for which the result of the checks is used again
_HEARD_WITHIN = 1.0  # seconds
_CHECKED_WITHIN = 6.0  # seconds; a process stops its checks after 5 s
_METHODS = ("GET", "HEAD")
_OF_SCOPE = re.compile("/ready/(network|router)s/([^/]+)")
_RETRY_AFTER = "2"  # seconds; the result of a check does not change earlier


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check: its name, whether it succeeded, and what it found."""

    name: str
    ok: bool
    text: str


class Readiness:
    """Makes the checks at most once a second, for any number of requests. Thread-safe.

    `pipelines` must answer; if it is empty, at least one process must answer. The plan may be unknown or not
    applied for at most `plan_max_age` seconds.
    """

    def __init__(
        self, introspect_dir: Path, status_file: Path, pipelines: Sequence[str], plan_max_age: float
    ) -> None:
        self._introspect_dir = introspect_dir
        self._status_file = status_file
        self._pipelines = pipelines
        self._plan_max_age = plan_max_age
        self._lock = threading.Lock()
        self._results: list[CheckResult] = []
        self._until = 0.0

    def of_host(self) -> list[CheckResult]:
        """The checks of the whole host."""
        return [*self._of_processes(), *self._of_node()]

    def of_scope(self, scope: Scope) -> list[CheckResult]:
        """The checks for the guests of one network or router."""
        return [*self._of_processes(), *self._of_listeners(scope)]

    # --- serving processes --------------------------------------------------------------

    def _of_processes(self) -> list[CheckResult]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._results = list(self._check_processes())
                self._until = time.monotonic() + _REMEMBERED
            return self._results

    def _check_processes(self) -> Iterator[CheckResult]:
        try:
            replies = ask(self._introspect_dir, "process", _HEARD_WITHIN)
        except OSError as error:
            yield CheckResult("processes", False, f"{self._introspect_dir} cannot be read: {error.strerror}")
            return
        names = self._pipelines or sorted({reply.pipeline for reply in replies})
        if not names:
            yield CheckResult(
                "processes", False, f"no process has an introspection socket in {self._introspect_dir}"
            )
        first = {}  # only one process of each pipeline makes the checks, to spare Neutron and Nova
        for name in names:
            of_pipeline = [reply for reply in replies if reply.pipeline == name]
            heard = [reply for reply in of_pipeline if reply.is_heard]
            yield CheckResult("processes", bool(heard), f"{name}: {len(heard)} of {len(of_pipeline)} answer")
            if heard:
                first[name] = heard[0].pid
        for reply in ask(self._introspect_dir, "checks", _CHECKED_WITHIN, names, first.values()):
            yield from _results_of(reply)

    # --- mdmw-node ------------------------------------------------------------------------

    def _of_node(self) -> Iterator[CheckResult]:
        try:
            status = node_status.read(self._status_file)
        except Unavailable as error:
            yield CheckResult("listeners", False, str(error))
            return
        if status is None:  # there is no mdmw-node on this host
            return
        yield _running(status, f"{len(status.listeners)} sockets listen")
        if status.plan is not None:
            yield self._of_plan(status.plan)

    def _of_plan(self, plan: node_status.PlanStatus) -> CheckResult:
        now = time.time()
        general = [problem.text for problem in plan.problems if problem.scope is None]
        if not plan.applied_at:
            why = "; ".join(general) or "mdmw-node has not applied a plan yet"
        elif now - plan.asked_at > self._plan_max_age:
            why = f"mdmw-node has not known for {now - plan.asked_at:.0f} s whether its plan is right"
        elif general and now - plan.applied_at > self._plan_max_age:
            why = f"mdmw-node could not apply its plan for {now - plan.applied_at:.0f} s: {general[0]}"
        else:
            return CheckResult("plan", True, f"the plan of {plan.source} has {len(plan.problems)} problems")
        return CheckResult("plan", False, why)

    def _of_listeners(self, scope: Scope) -> Iterator[CheckResult]:
        try:
            status = node_status.read(self._status_file)
        except Unavailable as error:
            yield CheckResult("listeners", False, str(error))
            return
        if status is None:
            yield CheckResult(
                "listeners",
                False,
                f"there is no file {self._status_file}, so mdmw-node does not run on this host",
            )
            return
        places = [
            f"{one.address} port {one.port} in {one.namespace or 'an unnamed namespace'}"
            for one in status.listeners
            if one.scope == scope
        ]
        if places:
            yield _running(status, "; ".join(places))
        else:
            yield CheckResult("listeners", False, f"mdmw-node has no listener for {scope}")
        for problem in status.plan.problems if status.plan else ():
            if problem.scope == scope:
                yield CheckResult("plan", False, problem.text)


def _results_of(reply: Reply) -> Iterator[CheckResult]:
    name = reply.pipeline
    if reply.problem:
        yield CheckResult("processes", False, f"{name}: process {reply.pid}: {reply.problem}")
    else:
        for what, found in reply.answer.items():
            yield CheckResult(what, found["ok"], f"{name}: {found['text']}")


def _running(status: NodeStatus, text: str) -> CheckResult:
    if status.is_running:
        return CheckResult("listeners", True, text)
    return CheckResult("listeners", False, f"mdmw-node (process {status.pid}) has ended")


class Health(Terminal):
    """The application; `readiness` has the checks."""

    stage = "respond"

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def respond(self, environ: Environ) -> App:
        request = Request(environ)
        if request.method not in _METHODS:
            raise MethodNotAllowed(f"only GET and HEAD are allowed, not {request.method}", _METHODS)
        return _response(request, self._results(environ.get("PATH_INFO", "")))

    def _results(self, path: str) -> Sequence[CheckResult]:
        if path == "/live":
            return []
        if path == "/ready":
            return self._readiness.of_host()
        match = _OF_SCOPE.fullmatch(path)
        if match is None or not is_uuid(match[2]):
            raise NotFound(
                f"{path!r} does not exist, only /live, /ready, /ready/networks/ID and /ready/routers/ID"
            )
        kind, id_ = match.groups()
        return self._readiness.of_scope(Scope("network" if kind == "network" else "router", id_.lower()))


def _response(request: Request, results: Sequence[CheckResult]) -> Response:
    missing = sorted({result.name for result in results if not result.ok})
    offers = request.accept.acceptable_offers(["text/plain", "application/json"])
    if offers and offers[0][0] == "application/json":
        checks = [{"name": one.name, "ok": one.ok, "text": one.text} for one in results]
        body = json.dumps({"ok": not missing, "missing": missing, "checks": checks})
        response = Response(body, content_type="application/json", charset="UTF-8")
    else:
        lines = [printable(f"{'ok' if one.ok else 'MISSING'} {one.name}: {one.text}") for one in results]
        verdict = f"not ready: {', '.join(missing)}" if missing else "ok"
        response = Response("\n".join([verdict, *lines, ""]), content_type="text/plain", charset="UTF-8")
    response.headers["Cache-Control"] = "no-store"
    if missing:
        response.status = 503
        response.headers["Retry-After"] = _RETRY_AFTER
    return response


def app_factory(global_conf: Mapping[str, str], **local_conf: str) -> Health:
    """Paste entry point; raises `ConfigError`."""
    settings = load("health", OPTIONS, global_conf, local_conf)
    readiness = Readiness(
        Path(settings.introspect_dir),
        Path(settings.node_status_file),
        settings.pipelines,
        settings.plan_max_age,
    )
    return Health(readiness)
