"""metrics: counts requests for Prometheus, and what happened on their way.

Reads: the journal of each request.
Writes: nothing.
Answers: nothing; what was counted is shown by `exposition`, on a listener that guests do not reach.
Place: first, behind access-log if it is there.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from mdmw.boundary.stage import App
from mdmw.observe.background import Observed
from mdmw.observe.metrics import METRICS_DIR, Meters
from mdmw.options import PIPELINE, load

OPTIONS = [METRICS_DIR]


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Observed]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("metrics", OPTIONS, global_conf, local_conf)
    return partial(Observed, observer=Meters(Path(settings.metrics_dir), global_conf.get(PIPELINE, "mdmw")))
