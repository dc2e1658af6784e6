"""Journals as OpenTelemetry spans: one for the request, a child for each stage.

Needs the extra `mdmw[otel]`. The SDK reads the OTEL_* variables, and has the exporter; the spans
are made when the request is over, in a batch, since all times are known then.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from mdmw.observe.access_log import path_of
from mdmw.observe.journal import Journal, TraceContext

_AT_ONCE = 100  # requests in one export
_NANOSECONDS = 1_000_000_000
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_EXPORTERS = "opentelemetry_traces_exporter"  # the group of entry points that the SDK's own launcher reads
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


class Tracer:
    """Begins traces, and exports what the journals tell. `service` names us unless OTEL_SERVICE_NAME does."""

    def __init__(self, exporter: SpanExporter, service: str) -> None:
        self._exporter = exporter
        provider = TracerProvider(shutdown_on_exit=False)
        self._sampler = provider.sampler
        self._resource = provider.resource
        if str(self._resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            self._resource = self._resource.merge(Resource({SERVICE_NAME: service}))

    def begin(self) -> TraceContext:
        """The root of a new trace; whether it is sampled, OTEL_TRACES_SAMPLER says."""
        trace_id = secrets.token_hex(16)
        result = self._sampler.should_sample(None, int(trace_id, 16), "request", SpanKind.SERVER)
        return TraceContext(trace_id, secrets.token_hex(8), result.decision is Decision.RECORD_AND_SAMPLE)

    def export(self, journals: Sequence[Journal]) -> None:
        """Export the sampled ones. Raises OSError when the exporter failed; it logs why."""
        for begin in range(0, len(journals), _AT_ONCE):
            spans = [span for journal in journals[begin : begin + _AT_ONCE] for span in self._spans(journal)]
            if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
                raise OSError("the exporter of traces failed")

    def _spans(self, journal: Journal) -> Iterator[ReadableSpan]:
        trace = journal.trace
        if trace is None:
            return
        context = _context(trace.trace_id, trace.span_id)
        began = int(journal.time * _NANOSECONDS)
        yield ReadableSpan(
            journal.method if journal.method in _METHODS else "HTTP",
            context,
            parent=_context(trace.trace_id, journal.parent_span) if journal.parent_span else None,
            resource=self._resource,
            attributes=_attributes(journal),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if journal.status >= 500 else StatusCode.UNSET),
            start_time=began,
            end_time=began + int(journal.seconds * _NANOSECONDS),
        )
        for stage, seconds in journal.stages.items():
            ended = began + int(seconds * _NANOSECONDS)
            yield ReadableSpan(
                stage,
                _context(trace.trace_id, secrets.token_hex(8)),
                parent=context,
                resource=self._resource,
                start_time=began,
                end_time=ended,
            )
            began = ended  # a stage begins when the one before it is done


def exporter_of_environment() -> SpanExporter:
    """The one that OTEL_TRACES_EXPORTER names, else OTLP over HTTP; `LookupError` if it is not installed."""
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = _OTLP.get(protocol, protocol)
    found = entry_points(group=_EXPORTERS, name=name)
    if not found:
        there = ", ".join(sorted(entry_points(group=_EXPORTERS).names))
        raise LookupError(f"no exporter of traces {name!r} is installed; there are: {there}")
    exporter: SpanExporter = next(iter(found)).load()()
    return exporter


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), False, TraceFlags(TraceFlags.SAMPLED))


def _attributes(journal: Journal) -> dict[str, Any]:
    """OpenTelemetry's names for HTTP servers, and ours; as in the access log no query and no header."""
    source, instance = journal.source, journal.instance
    attributes: dict[str, Any] = {
        "http.request.method": journal.method if journal.method in _METHODS else "_OTHER",
        "url.path": path_of(journal.target),
        "http.response.status_code": journal.status,
        "http.response.body.size": journal.sent,
        "client.address": source.address if source else journal.peer,
        "mdmw.request_id": journal.request_id,
    }
    if source:
        attributes[f"mdmw.{source.scope.kind}"] = source.scope.id
    if instance:
        attributes["mdmw.instance"] = instance.id
    if journal.cache:
        attributes["mdmw.cache"] = journal.cache
    if journal.error:
        attributes["error.type"] = journal.error
    return attributes | {f"mdmw.{note}": number for note, number in journal.notes.items()}
