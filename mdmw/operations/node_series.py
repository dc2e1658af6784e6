"""What mdmw-node says of itself, as series."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from mdmw.observe.node_status import NodeStatus
from mdmw.observe.series import (
    LISTENERS,
    NAMESPACES,
    NODE_START,
    NODE_UP,
    PLAN_APPLIED,
    PLAN_ASKED,
    PLAN_PROBLEMS,
    Series,
)


def node_series(status: NodeStatus) -> Iterator[Metric]:
    """Listeners, namespaces, and the plan if there is one."""
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
    """A gauge; each value has those of the labels before it."""
    family = GaugeMetricFamily(series.name, series.help, labels=series.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family
