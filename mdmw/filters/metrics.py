"""metrics: counts requests for Prometheus, and what happened on their way.

Reads: the journal of each request; what the stages behind it measure.
Writes: nothing.
Answers: nothing. The filter `exposition` shows the numbers, on a listener that guests do not reach.
Place: first, behind access-log if that is there.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from mdmw.boundary.stage import measurements_of
from mdmw.observe.metrics import METRICS_DIR, Metrics
from mdmw.observe.recording import App, Observed
from mdmw.options import PIPELINE, load

OPTIONS = [METRICS_DIR]


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Observed]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("metrics", OPTIONS, global_conf, local_conf)
    directory, pipeline = Path(settings.metrics_dir), global_conf.get(PIPELINE, "mdmw")
    return lambda app: Observed(app, Metrics(directory, pipeline, partial(measurements_of, app)))
