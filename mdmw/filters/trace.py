"""trace: a span for each request and each of its stages, by OpenTelemetry.

Reads: the journal of the request; `traceparent` from trusted hops.
Writes: nothing; with it `traceparent` goes to the next hop, with a span of ours.
Answers: nothing.
Place: first. The OTEL_* variables say where spans go, and which requests have them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module

from oslo_config import cfg

from mdmw.boundary.stage import StartResponse
from mdmw.errors import ConfigError
from mdmw.observe.background import Batch
from mdmw.observe.journal import Journal, TraceContext, journal_of
from mdmw.observe.recording import App, Observed
from mdmw.options import PIPELINE, load
from mdmw.records import Environ

OPTIONS: list[cfg.Opt] = []


class BeginTrace:
    """Gives the journal of a request a trace; a trusted hop may name another trace later."""

    def __init__(self, app: App, begin: Callable[[], TraceContext]) -> None:
        self.app = app
        self._begin = begin

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if (journal := journal_of(environ)) is not None:
            journal.trace = self._begin()
        body: Iterable[bytes] = self.app(environ, start_response)
        return body


class Spans:
    """The observer: has the journals of sampled requests exported, in a thread of its own."""

    def __init__(self, export: Callable[[Sequence[Journal]], None]) -> None:
        self._journals: Batch[Journal] = Batch(export, "mdmw-spans")
        self.flush = self._journals.flush
        self.close = self._journals.close

    def over(self, journals: Sequence[Journal]) -> None:
        """Take the requests that are over (`Observer.over`)."""
        sampled = [journal for journal in journals if journal.trace and journal.trace.is_sampled]
        if sampled:
            self._journals.add(sampled)

    def forget(self) -> None:
        """Nothing: the batch sees by itself that the process is a forked child (`Observer.forget`)."""


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
    return lambda app: Observed(BeginTrace(app, tracer.begin), Spans(tracer.export))
