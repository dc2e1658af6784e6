"""health: is this process alive, is this host ready, would guests of this network be answered?

Reads: the path, Accept.
Answers: GET /live, /ready, /ready/networks/ID and /ready/routers/ID with 200, or 503 when something is
missing, and then what.
Place: the end of a pipeline on a listener of its own, never in one of guests.
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

_REMEMBERED = 1.0  # seconds
_HEARD_WITHIN = 1.0
_CHECKED_WITHIN = 6.0  # a process gives its checks 5 s


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must be there, whether it is, and how that is known."""

    name: str
    ok: bool
    text: str


class Readiness:
    """Looks once a second at most, for however many who ask. Thread-safe.

    `pipelines` are those that must answer; without any, at least one process must. A plan must
    have been right `plan_max_age` seconds ago.
    """

    def __init__(
        self, introspect_dir: Path, status_file: Path, pipelines: Sequence[str], plan_max_age: float
    ) -> None:
        self._introspect_dir = introspect_dir
        self._status_file = status_file
        self._pipelines = pipelines
        self._plan_max_age = plan_max_age
        self._lock = threading.Lock()
        self._findings: list[Finding] = []
        self._until = 0.0

    def of_host(self) -> list[Finding]:
        """All but what is about one network or router alone."""
        return [*self._of_processes(), *self._of_node()]

    def of_scope(self, scope: Scope) -> list[Finding]:
        """What the guests of a network or router depend on."""
        return [*self._of_processes(), *self._of_listeners(scope)]

    # --- what processes say -------------------------------------------------------------

    def _of_processes(self) -> list[Finding]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._findings = list(self._looked())
                self._until = time.monotonic() + _REMEMBERED
            return self._findings

    def _looked(self) -> Iterator[Finding]:
        try:
            replies = ask(self._introspect_dir, "process", _HEARD_WITHIN)
        except OSError as error:
            yield Finding("processes", False, f"{self._introspect_dir} cannot be read: {error.strerror}")
            return
        names = self._pipelines or sorted({reply.pipeline for reply in replies})
        if not names:
            yield Finding("processes", False, f"no process has a socket in {self._introspect_dir}")
        first = {}  # one process for all of its pipeline, so that nobody is asked more often than need be
        for name in names:
            of_pipeline = [reply for reply in replies if reply.pipeline == name]
            heard = [reply for reply in of_pipeline if reply.is_heard]
            yield Finding("processes", bool(heard), f"{name}: {len(heard)} of {len(of_pipeline)} answer")
            if heard:
                first[name] = heard[0].pid
        for reply in ask(self._introspect_dir, "checks", _CHECKED_WITHIN, names, first.values()):
            yield from _checked(reply)

    # --- what mdmw-node says --------------------------------------------------------------

    def _of_node(self) -> Iterator[Finding]:
        try:
            status = node_status.read(self._status_file)
        except Unavailable as error:
            yield Finding("listeners", False, str(error))
            return
        if status is None:  # there is no mdmw-node on this host
            return
        yield _running(status, f"{len(status.listeners)} sockets listen")
        if status.plan is not None:
            yield self._of_plan(status.plan)

    def _of_plan(self, plan: node_status.PlanStatus) -> Finding:
        now = time.time()
        general = [problem.text for problem in plan.problems if problem.scope is None]
        if not plan.applied_at:
            why = "; ".join(general) or "the first plan is not applied yet"
        elif now - plan.asked_at > self._plan_max_age:
            why = f"for {now - plan.asked_at:.0f} s nobody has known whether the plan is right"
        elif general and now - plan.applied_at > self._plan_max_age:
            why = f"for {now - plan.applied_at:.0f} s the node has not been as planned: {general[0]}"
        else:
            return Finding("plan", True, f"of {plan.source}, {len(plan.problems)} problems")
        return Finding("plan", False, why)

    def _of_listeners(self, scope: Scope) -> Iterator[Finding]:
        try:
            status = node_status.read(self._status_file)
        except Unavailable as error:
            yield Finding("listeners", False, str(error))
            return
        if status is None:
            yield Finding(
                "listeners", False, f"there is no {self._status_file}, so mdmw-node does not run here"
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
            yield Finding("listeners", False, f"nothing listens for {scope}")
        for problem in status.plan.problems if status.plan else ():
            if problem.scope == scope:
                yield Finding("plan", False, problem.text)


def _checked(reply: Reply) -> Iterator[Finding]:
    name = reply.pipeline
    if reply.problem:
        yield Finding("processes", False, f"{name}: process {reply.pid}: {reply.problem}")
    else:
        for what, found in reply.answer.items():
            yield Finding(what, found["ok"], f"{name}: {found['text']}")


def _running(status: NodeStatus, text: str) -> Finding:
    if status.is_running:
        return Finding("listeners", True, text)
    return Finding("listeners", False, f"mdmw-node (process {status.pid}) has ended")


OPTIONS = [
    cfg.StrOpt(
        "introspect_dir",
        default="/run/mdmw/processes",
        help="Where the filter introspect has its sockets. This process is of the same user, or root.",
    ),
    cfg.StrOpt(
        "node_status_file",
        default="/run/mdmw/node-status.json",
        help="What mdmw-node says of its listeners and its plan. Without the file neither is asked for.",
    ),
    cfg.ListOpt(
        "pipelines",
        default=[],
        help="Pipelines of which at least one process must answer; else all that have a process.",
    ),
    cfg.FloatOpt(
        "plan_max_age",
        default=300.0,
        min=1,
        help="Seconds for which mdmw-node may do without knowing whether its plan is right.",
    ),
]

_METHODS = ("GET", "HEAD")
_OF_SCOPE = re.compile("/ready/(network|router)s/([^/]+)")
_RETRY_AFTER = "2"  # seconds; nothing new is found out before


class Health(Terminal):
    """An application without state of its own."""

    stage = "respond"

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def respond(self, environ: Environ) -> App:
        request = Request(environ)
        if request.method not in _METHODS:
            raise MethodNotAllowed(f"{request.method} has no meaning here", _METHODS)
        return _response(request, self._findings(environ.get("PATH_INFO", "")))

    def _findings(self, path: str) -> Sequence[Finding]:
        if path == "/live":
            return []
        if path == "/ready":
            return self._readiness.of_host()
        match = _OF_SCOPE.fullmatch(path)
        if match is None or not is_uuid(match[2]):
            raise NotFound(f"{path!r}: here are /live, /ready, /ready/networks/ID and /ready/routers/ID")
        kind, id_ = match.groups()
        return self._readiness.of_scope(Scope("network" if kind == "network" else "router", id_.lower()))


def _response(request: Request, findings: Sequence[Finding]) -> Response:
    missing = sorted({finding.name for finding in findings if not finding.ok})
    offers = request.accept.acceptable_offers(["text/plain", "application/json"])
    if offers and offers[0][0] == "application/json":
        checks = [{"name": one.name, "ok": one.ok, "text": one.text} for one in findings]
        body = json.dumps({"ok": not missing, "missing": missing, "checks": checks})
        response = Response(body, content_type="application/json", charset="UTF-8")
    else:
        lines = [f"{'ok' if one.ok else 'MISSING'} {one.name}: {one.text}" for one in findings]
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
