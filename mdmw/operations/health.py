"""health: is this process alive, is this host ready, would guests of this network be answered?

Reads: the path, Accept.
Answers: GET /live, /ready, /ready/networks/ID and /ready/routers/ID with 200, or 503 when something is
missing, and then what.
Place: the end of a pipeline on a listener of its own, never in one of guests.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from oslo_config import cfg
from webob import Request, Response

from mdmw.boundary.base import App, Terminal
from mdmw.errors import MethodNotAllowed, NotFound
from mdmw.operations.readiness import Finding, Readiness
from mdmw.options import load
from mdmw.records import Environ, Scope, is_uuid

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
