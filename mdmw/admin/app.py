"""admin: the admin API, for operators, on a listener of its own.

Reads: `mdmw.operator`; method, path, query, If-Match and the body.
Writes: nothing.
Answers: JSON. `mdmw.admin.operations` has the operations, `mdmw.admin.call` the errors.
Place: the end of a pipeline, after authtoken or local-operator; no guest may reach this pipeline.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg
from routes import Mapper
from webob import Response

from mdmw import wire
from mdmw.admin import openapi
from mdmw.admin.call import Call, read_call, refusal, reply
from mdmw.admin.inventory import InventoryHandlers
from mdmw.admin.operations import OPERATIONS, Operation
from mdmw.admin.policy import OPERATOR, Operator, Policy
from mdmw.admin.serving import ActionHandlers, ServingProcesses, TrafficHandlers
from mdmw.boundary.stage import StartResponse
from mdmw.errors import ConfigError, MethodNotAllowed, NotFound, PipelineError, Unavailable
from mdmw.inventory.store import InventoryStore
from mdmw.observe.journal import request_id_of
from mdmw.options import load
from mdmw.records import Environ
from mdmw.wsgi import catalogue, pipelines

OPTIONS = [
    cfg.StrOpt(
        "introspect_dir",
        default="/run/mdmw/processes",
        help="Directory with the introspection sockets of the serving processes; the same as in the filter "
        "introspect. A serving process answers only root and its own user, so the admin API must run as one "
        "of them.",
    ),
    cfg.StrOpt(
        "node_status_file",
        default="/run/mdmw/node-status.json",
        help="File in which mdmw-node describes its listeners. Without the file, the API shows no listeners.",
    ),
    cfg.StrOpt(
        "policy_file",
        help="YAML file of oslo.policy that overrides rules of the code; etc/policy.yaml lists all rules. "
        "mdmw reads the file again after a change. If the file has a mistake, the log says so, and the last "
        "good version stays in use.",
    ),
    cfg.StrOpt(
        "inventory_db",
        help="SQLite file with the inventory that the API can change. mdmw makes the file if it does not "
        "exist.",
    ),
    cfg.FloatOpt(
        "audit_retention",
        default=0.0,
        min=0,
        help="Seconds for which the record of an inventory change is kept. With 0, records are kept for "
        "ever.",
    ),
]


Handler = Callable[[Call], Response]


@dataclass(frozen=True, slots=True)
class Route:
    """The operations of a path by method, and the variables of the path."""

    operations: Mapping[str, Operation]
    variables: Mapping[str, str]

    @property
    def allow(self) -> tuple[str, ...]:
        """The methods that the path allows."""
        return (*self.operations, *(("HEAD",) if "GET" in self.operations else ()), "OPTIONS")

    def operation(self, method: str) -> Operation | None:
        """The operation of a method; HEAD is GET without a body."""
        return self.operations.get("GET" if method == "HEAD" else method)


def find_route(path: str) -> Route | None:
    """The route of a decoded path, or None."""
    if "\n" in path:  # an expression of Routes ends in `$`, which also fits before a final newline
        return None
    match = _MAPPER.match(path)
    return Route(_BY_PATH[match.pop("template")], match) if match else None


def _connect() -> Mapper:
    mapper = Mapper(explicit=True)
    for template in _BY_PATH:
        mapper.connect(None, template.replace(":", "\\:"), template=template)
    mapper.create_regs()
    return mapper


_BY_PATH: dict[str, dict[str, Operation]] = {}
for _operation in OPERATIONS:
    _BY_PATH.setdefault(_operation.path, {})[_operation.method] = _operation
_MAPPER = _connect()


class Admin:
    """Finds the operation of a request, asks the policy, and calls the handler of the operation."""

    requires = frozenset({OPERATOR})

    def __init__(self, policy: Policy, handlers: Mapping[str, Handler]) -> None:
        self._policy = policy
        self._handlers = handlers

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request_id = request_id_of(environ)
        try:
            response = self._respond(environ, request_id)
        except Exception as error:
            response = refusal(error, environ, environ.get(OPERATOR, "somebody"))
        response.headers[wire.REQUEST_ID] = request_id
        return response(environ, start_response)

    def _respond(self, environ: Environ, request_id: str) -> Response:
        operator: Operator | None = environ.get(OPERATOR)
        if operator is None:
            raise PipelineError("the app admin needs the filter authtoken or local-operator before it")
        method = environ["REQUEST_METHOD"]
        route = find_route(_path(environ))
        if route is None:
            raise NotFound("the API has nothing at this path")
        if method == "OPTIONS":
            return Response(status=204, content_type=None, headers=[("Allow", ", ".join(route.allow))])
        operation = route.operation(method)
        if operation is None:
            raise MethodNotAllowed(f"this path does not allow {method[:20]!r}", route.allow)
        self._policy.check(operation, operator)
        return self._handlers[operation.name](
            read_call(environ, operation, route.variables, operator, request_id)
        )


def _path(environ: Environ) -> str:
    try:
        path: str = environ["PATH_INFO"].encode("latin-1").decode()
    except UnicodeError:
        raise NotFound("the path is not UTF-8") from None
    return path


# --- strings to settings ----------------------------------------------------------------


def app_factory(global_conf: Mapping[str, str], **local_conf: str) -> Admin:
    """Paste entry point; raises `ConfigError`."""
    settings = load("admin", OPTIONS, global_conf, local_conf)
    serving = ServingProcesses(settings.introspect_dir)
    ini_file = global_conf.get("__file__") or pipelines.ini_file()
    handlers: dict[str, Handler] = {
        "get_config": lambda _: reply(_configuration(ini_file)),
        "get_openapi": lambda _: reply(openapi.document()),
        **TrafficHandlers(serving, settings.node_status_file).handlers(),
        **ActionHandlers(serving).handlers(),
        **InventoryHandlers(_store(settings)).handlers(),
    }
    return Admin(Policy(settings.policy_file), handlers)


def _configuration(ini_file: str) -> dict[str, Any]:
    """The pipelines of the ini file; raises `Unavailable` if the file was changed and has a mistake now."""
    try:
        return catalogue.pipelines(ini_file)
    except ConfigError as error:
        raise Unavailable(str(error)) from None


def _store(settings: SimpleNamespace) -> InventoryStore | None:
    if not settings.inventory_db:
        return None
    return InventoryStore(settings.inventory_db, settings.audit_retention)
