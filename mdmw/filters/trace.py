"""trace: a span for each request and each of its stages, by OpenTelemetry.

Reads: the journal of the request; `traceparent` from trusted hops.
Writes: nothing; with it `traceparent` goes to the next hop, with a span of ours.
Answers: nothing.
Place: first. The OTEL_* variables say where spans go, and which requests have them.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from oslo_config import cfg

from mdmw.boundary.stage import App, StartResponse
from mdmw.errors import ConfigError
from mdmw.observe.background import Batch, Observed
from mdmw.observe.journal import Journal, TraceContext
from mdmw.options import PIPELINE, load
from mdmw.records import JOURNAL, Environ

OPTIONS: list[cfg.Opt] = []


class Traced:
    """Gives the journal of a request a trace; a trusted hop may name another."""

    def __init__(self, app: App, begin: Callable[[], TraceContext]) -> None:
        self._app = app
        self._begin = begin

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        journal: Journal | None = environ.get(JOURNAL)
        if journal is not None:
            journal.trace = self._begin()
        return self._app(environ, start_response)


class Spans:
    """The observer: has the journals of sampled requests exported, for which other observers do not wait."""

    def __init__(self, export: Callable[[Any], None]) -> None:
        self.batch = Batch(export)

    def over(self, journal: Journal) -> None:
        """As `Observer`."""
        if journal.trace and journal.trace.is_sampled:
            self.batch.add(journal)

    def flush(self) -> None:
        """As `Observer`."""

    def forget(self) -> None:
        """As `Observer`."""


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Observed]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("trace", OPTIONS, global_conf, local_conf)
    try:
        spans = import_module("mdmw.observe.spans")
        exporter = spans.exporter_of_environment()
    except ImportError as error:
        raise ConfigError(f"{settings.place}: OpenTelemetry is the extra mdmw[otel]: {error}") from None
    except LookupError as error:
        raise ConfigError(f"{settings.place}: {error}") from None
    tracer = spans.Tracer(exporter, f"mdmw-{global_conf.get(PIPELINE, 'pipeline')}")
    observer = Spans(tracer.export)
    return lambda app: Observed(Traced(app, tracer.begin), observer)
