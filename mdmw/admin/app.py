"""admin: the API of operators, on a listener of its own.

Reads: `mdmw.operator`; method, path, query, If-Match and the body.
Writes: nothing.
Answers: JSON, errors as `mdmw.admin.call` says. Each operation is in `mdmw.admin.operations`.
Place: the end of a pipeline, behind authtoken or local-operator; never where a guest can reach it.
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
from mdmw.admin.call import Call, new_request_id, read, refusal, reply
from mdmw.admin.inventory import Inventory
from mdmw.admin.operations import OPERATIONS, Operation
from mdmw.admin.policy import OPERATOR, Operator, Policy
from mdmw.admin.served import Acting, Processes, Served
from mdmw.boundary.stage import StartResponse
from mdmw.errors import MethodNotAllowed, NotFound, PipelineError
from mdmw.inventory.store import InventoryStore
from mdmw.options import load
from mdmw.records import Environ

OPTIONS = [
    cfg.StrOpt(
        "introspect_dir",
        default="/run/mdmw/processes",
        help="Directory with the sockets of the serving processes, as the filter introspect has it. They "
        "answer root and their own user only, so the API runs as one of these.",
    ),
    cfg.StrOpt(
        "node_status_file",
        default="/run/mdmw/node-status.json",
        help="What mdmw-node says of its listeners; where there is no such file, no listeners are shown.",
    ),
    cfg.StrOpt(
        "policy_file",
        help="YAML file of oslo.policy that overrides rules of the code; etc/policy.yaml has them all. "
        "Read again when it changes; a version with a mistake is logged, and the last good one stays in use.",
    ),
    cfg.StrOpt(
        "inventory_db",
        help="SQLite file with the inventory that can be changed here; made when it is not there.",
    ),
    cfg.FloatOpt(
        "audit_retention",
        default=0.0,
        min=0,
        help="Seconds for which the record of a change of the inventory is kept; 0: for ever.",
    ),
]


@dataclass(frozen=True, slots=True)
class Place:
    """The operations of a path by their method, and the variables in it."""

    operations: Mapping[str, Operation]
    variables: Mapping[str, str]

    @property
    def allow(self) -> tuple[str, ...]:
        """The methods that it takes."""
        return (*self.operations, *(("HEAD",) if "GET" in self.operations else ()), "OPTIONS")

    def operation(self, method: str) -> Operation | None:
        """What a method does here; HEAD is GET without a body."""
        return self.operations.get("GET" if method == "HEAD" else method)


def find(path: str) -> Place | None:
    """The place that a decoded path names, or None."""
    if "\n" in path:  # an expression of Routes ends in `$`, which also fits before a final newline
        return None
    match = _MAPPER.match(path)
    return Place(_BY_PATH[match.pop("template")], match) if match else None


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
        place = find(_path(environ))
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
