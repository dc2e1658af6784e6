"""admin: the API of operators, on a listener of its own.

Reads: `mdmw.operator`; method, path, query, If-Match and the body.
Writes: nothing.
Answers: JSON, errors as `mdmw.admin.answers` says. Each operation is in `mdmw.admin.operations`.
Place: the end of a pipeline, behind authtoken or local-operator; never where a guest can reach it.
"""

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from webob import Response

from mdmw import wire
from mdmw.admin import openapi, routing
from mdmw.admin.acting import Acting
from mdmw.admin.answers import new_request_id, refusal, reply
from mdmw.admin.call import Call, read
from mdmw.admin.inventory import Inventory
from mdmw.admin.operators import OPERATOR, Operator
from mdmw.admin.policy import Policy
from mdmw.admin.processes import Processes
from mdmw.admin.served import Served
from mdmw.admin.settings import OPTIONS
from mdmw.boundary.base import StartResponse
from mdmw.errors import MethodNotAllowed, NotFound, PipelineError
from mdmw.inventory.store import InventoryStore
from mdmw.options import load
from mdmw.records import Environ

Handler = Callable[[Call], Response]


class Admin:
    """Finds the operation, asks the policy, and calls its handler."""

    requires = frozenset({OPERATOR})

    def __init__(self, policy: Policy, handlers: Mapping[str, Handler]) -> None:
        self._policy = policy
        self._handlers = handlers

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request_id = new_request_id()
        try:
            response = self._respond(environ, request_id)
        except Exception as error:
            response = refusal(error, request_id, environ.get(OPERATOR, "somebody"))
        response.headers[wire.REQUEST_ID] = request_id
        return response(environ, start_response)

    def _respond(self, environ: Environ, request_id: str) -> Response:
        operator: Operator | None = environ.get(OPERATOR)
        if operator is None:
            raise PipelineError("admin needs authtoken or local-operator before it")
        method = environ["REQUEST_METHOD"]
        place = routing.find(_path(environ))
        if place is None:
            raise NotFound("there is nothing at this path")
        if method == "OPTIONS":
            return Response(status=204, content_type=None, headers=[("Allow", ", ".join(place.allow))])
        operation = place.operation(method)
        if operation is None:
            raise MethodNotAllowed(f"{method[:20]!r} is not for this path", place.allow)
        self._policy.check(operation, operator)
        return self._handlers[operation.name](read(environ, operation, place.variables, operator, request_id))


def _path(environ: Environ) -> str:
    try:
        path: str = environ["PATH_INFO"].encode("latin-1").decode()
    except UnicodeError:
        raise NotFound("the path is not UTF-8") from None
    return path


# --- strings to settings ----------------------------------------------------------------


def make(
    global_conf: Mapping[str, str], local_conf: Mapping[str, str], pipelines: Callable[[], Any]
) -> Admin:
    """The application of a section; `pipelines` describes those of the ini file. Raises `ConfigError`."""
    settings = load("admin", OPTIONS, global_conf, local_conf)
    processes = Processes(settings.introspect_dir)
    handlers: dict[str, Handler] = {
        "get_config": lambda _: reply(pipelines()),
        "get_openapi": lambda _: reply(openapi.document()),
        **Served(processes, settings.node_status_file).handlers(),
        **Acting(processes).handlers(),
        **Inventory(_store(settings)).handlers(),
    }
    return Admin(Policy(settings.policy_file), handlers)


def _store(settings: SimpleNamespace) -> InventoryStore | None:
    if not settings.inventory_db:
        return None
    return InventoryStore(settings.inventory_db, settings.audit_retention)
