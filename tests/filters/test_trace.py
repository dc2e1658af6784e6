"""trace: spans as OpenTelemetry's own exporters send them, made from journals."""

import pytest
from forwarding import NETWORK
from guest import call
from observed import Kept, observed, settle
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from peers import answers, response

from mdmw.boundary.stage import Terminal
from mdmw.errors import ConfigError, Unavailable
from mdmw.filters import source_identify, trace
from mdmw.observe.journal import TraceContext, next_hop_headers, parse
from mdmw.observe.spans import Tracer

CALLER = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
FROM_PROXY = [("X-Forwarded-For", "10.0.0.5"), ("X-Neutron-Network-ID", NETWORK)]


class Respond(Terminal):
    """Notes what would go to the next hop."""

    stage = "respond"

    def __init__(self, error=None):
        self.error = error
        self.onward = {}

    def respond(self, environ):
        self.onward = dict(next_hop_headers(environ))
        if self.error:
            raise self.error

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"abc"]

        return app


class Pipeline:
    """The agent's source-identify behind a tracer."""

    def __init__(self, tracer, error=None):
        self.terminal = Respond(error)
        identify = source_identify.filter_factory({}, mode="relay", trust_client_mac="true")
        self.kept = Kept()
        self.app = observed(trace.BeginTrace(identify(self.terminal), tracer.begin), self.kept)

    def ask(self, *headers, target="/latest/?secret=1"):
        call(self.app, target=target, headers=[*FROM_PROXY, *headers], peer="")
        return self.kept.journals[-1]


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    return Tracer(exporter, "mdmw-agent")


def test_a_request_is_a_span_and_each_stage_is_a_child(exporter, tracer):
    journal = Pipeline(tracer).ask()
    tracer.export([journal])
    request, *stages = exporter.get_finished_spans()
    assert (request.name, request.kind, request.parent) == ("GET", SpanKind.SERVER, None)
    assert request.status.status_code is StatusCode.UNSET
    assert dict(request.attributes) == {
        "http.request.method": "GET",
        "url.path": "/latest/",
        "http.response.status_code": 200,
        "http.response.body.size": 3,
        "client.address": "10.0.0.5",
        "mdmw.request_id": journal.request_id,
        "mdmw.network": NETWORK,
    }
    assert [span.name for span in stages] == ["identify", "respond"]
    assert [span.parent for span in stages] == [request.context] * 2
    assert {span.context.trace_id for span in stages} == {request.context.trace_id}
    assert len({span.context.span_id for span in (request, *stages)}) == 3


def test_times_are_those_of_the_journal(exporter, tracer):
    """A stage begins when the one before it is done."""
    journal = Pipeline(tracer).ask()
    tracer.export([journal])
    request, first, second = exporter.get_finished_spans()
    assert request.start_time == first.start_time == int(journal.time * 1e9)
    assert first.end_time == second.start_time
    assert second.end_time <= request.end_time
    assert request.end_time - request.start_time == pytest.approx(journal.seconds * 1e9, abs=2)


def test_a_trusted_hop_is_the_parent(exporter, tracer):
    """The next hop then is told our span, in the same trace."""
    pipeline = Pipeline(tracer)
    tracer.export([pipeline.ask(("traceparent", str(CALLER)))])
    request = exporter.get_finished_spans()[0]
    assert f"{request.context.trace_id:032x}" == CALLER.trace_id
    assert f"{request.parent.span_id:016x}" == CALLER.span_id
    told = parse(pipeline.terminal.onward["traceparent"])
    assert (told.trace_id, told.span_id) == (CALLER.trace_id, f"{request.context.span_id:016x}")
    assert told.span_id != CALLER.span_id


def test_an_error_is_named(exporter, tracer):
    tracer.export([Pipeline(tracer, Unavailable("gone")).ask()])
    request = exporter.get_finished_spans()[0]
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == "Unavailable"


def test_who_is_not_sampled_has_a_trace_but_no_spans(monkeypatch, exporter):
    """OTEL_TRACES_SAMPLER decides for new traces, the caller for its own."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    exported = []
    observer = trace.Spans(exported.extend)
    pipeline = Pipeline(Tracer(exporter, "x"))
    unsampled = pipeline.ask()
    assert pipeline.terminal.onward["traceparent"].endswith("-00")
    sampled = pipeline.ask(("traceparent", str(CALLER)))
    observer.over([unsampled, sampled])
    observer.flush()
    assert exported == [sampled]


def test_the_service_has_a_name_unless_the_environment_says_another(monkeypatch, exporter):
    def name(tracer):
        exporter.clear()
        tracer.export([Pipeline(tracer).ask()])
        return exporter.get_finished_spans()[0].resource.attributes["service.name"]

    assert name(Tracer(exporter, "mdmw-agent")) == "mdmw-agent"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    assert name(Tracer(exporter, "mdmw-agent")) == "ours"


class Failing(SpanExporter):
    def export(self, spans):
        return SpanExportResult.FAILURE


def test_an_exporter_that_fails_loses_spans_and_a_line_says_so():
    tracer = Tracer(Failing(), "x")
    with pytest.raises(OSError, match="the exporter of traces failed"):
        tracer.export([Pipeline(tracer).ask()])


def test_spans_come_over_http_to_a_collector(monkeypatch, peers):
    """OTLP as it is on the wire, with nothing set but the address."""
    collector = peers.tcp(answers(response("200 OK", b"", "Content-Type: application/x-protobuf")))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{collector.address.authority}")
    app = trace.filter_factory({"mdmw_pipeline": "agent"})(Respond())
    reply = call(app, "GET", "/latest/")
    settle(app)
    (received,) = collector.requests
    assert received.target == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(received.body).resource_spans
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert named["service.name"] == "mdmw-agent"
    request, stage = resource.scope_spans[0].spans
    assert (request.name, stage.name, stage.parent_span_id) == ("GET", "respond", request.span_id)
    attributes = {one.key: one.value.string_value for one in request.attributes}
    assert attributes["mdmw.request_id"] == reply.value("X-Openstack-Request-Id")


@pytest.mark.parametrize("variable", ["OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL"])
def test_an_exporter_that_is_not_there_is_one_line(monkeypatch, variable):
    monkeypatch.setenv(variable, "pigeon")
    with pytest.raises(
        ConfigError, match=r"no exporter of traces 'pigeon' is installed; there are: console, otlp"
    ):
        trace.filter_factory({})
