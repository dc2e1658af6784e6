"""exposition: shows Prometheus the metrics that the processes of this host have counted.

Reads: the files of the filter `metrics`, and the status file of mdmw-node.
Answers: GET /metrics; 503 if the files cannot be read. The next application answers other paths. At the end
of a pipeline, the answer to other paths is 404.
Place: on a listener of its own, before `health`; no guest may reach this pipeline.
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

from oslo_config import cfg
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mdmw.boundary.stage import App, StartResponse, Terminal
from mdmw.errors import NotFound, Unavailable
from mdmw.observe import node_status
from mdmw.observe.metrics import METRICS_DIR, collect
from mdmw.observe.node_status import NodeStatus
from mdmw.observe.series import (
    BUILD,
    LISTENERS,
    NAMESPACES,
    NODE_START,
    NODE_UP,
    PLAN_APPLIED,
    PLAN_ASKED,
    PLAN_PROBLEMS,
    Series,
)
from mdmw.options import load
from mdmw.records import Environ

OPTIONS = [
    METRICS_DIR,
    cfg.StrOpt(
        "node_status_file",
        default="/run/mdmw/node-status.json",
        help="File in which mdmw-node describes its listeners and its plan. Without the file, /metrics has "
        "no series about mdmw-node.",
    ),
]
_PATH = "/metrics"


class Exposition:
    """Answers requests for /metrics, and passes on the others."""

    def __init__(self, app: App, metrics_dir: Path, node_status: Path) -> None:
        self.app = app
        self._page = _Page(metrics_dir, node_status)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        app = self._page if environ.get("PATH_INFO") == _PATH else self.app
        return app(environ, start_response)


class _Page(Terminal):
    def __init__(self, metrics_dir: Path, node_status: Path) -> None:
        self._metrics_dir = metrics_dir
        self._node_status = node_status
        self._build = gauge(BUILD, ((version("mdmw"), platform.python_version()), 1))

    def respond(self, environ: Environ) -> App:  # noqa: ARG002 - the answer is the same for all
        try:
            counted = collect(self._metrics_dir)
        except OSError as error:
            raise Unavailable(f"{self._metrics_dir}: {error.strerror or error}") from None
        status = node_status.read(self._node_status)
        of_node = node_series(status) if status else ()
        registry = CollectorRegistry()
        registry.register(_Collected([*counted, *of_node, self._build]))
        app: App = make_wsgi_app(registry)
        return app


def node_series(status: NodeStatus) -> Iterator[Metric]:
    """The series about mdmw-node: listeners, namespaces, and the plan if there is one."""
    yield gauge(NODE_UP, ((), status.is_running))
    yield gauge(NODE_START, ((), status.since))
    kinds = Counter(listener.scope.kind for listener in status.listeners)
    yield gauge(LISTENERS, (("network",), kinds["network"]), (("router",), kinds["router"]))
    yield gauge(NAMESPACES, ((), len({listener.namespace for listener in status.listeners})))
    if status.plan is not None:
        yield gauge(PLAN_ASKED, ((), status.plan.asked_at))
        yield gauge(PLAN_APPLIED, ((), status.plan.applied_at))
        yield gauge(PLAN_PROBLEMS, ((), len(status.plan.problems)))


def gauge(series: Series, *values: tuple[tuple[str, ...], float]) -> Metric:
    """A gauge; `values` are pairs of the values of its labels and the number."""
    family = GaugeMetricFamily(series.name, series.help, labels=series.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


class _Nothing(Terminal):
    def respond(self, environ: Environ) -> App:
        raise NotFound(f"{environ.get('PATH_INFO')!r} does not exist, only {_PATH}")


class _Collected(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Exposition]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("exposition", OPTIONS, global_conf, local_conf)
    return partial(
        Exposition, metrics_dir=Path(settings.metrics_dir), node_status=Path(settings.node_status_file)
    )


def app_factory(global_conf: Mapping[str, str], **local_conf: str) -> Exposition:
    """Paste entry point of the application at the end of a pipeline; raises `ConfigError`."""
    return filter_factory(global_conf, **local_conf)(_Nothing())
