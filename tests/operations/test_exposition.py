"""What Prometheus gets to read, and what it gets when there is nothing to read."""

import json
import os

import pytest
from guest import Seen, call
from prometheus_client.parser import text_string_to_metric_families

from mdmw.observe import series
from mdmw.observe.journal import Journal
from mdmw.observe.metrics import Metrics
from mdmw.operations.exposition import app_factory, filter_factory

GONE = 2**22 + 1  # more than a process id can be
STATUS = {
    "version": 1,
    "pid": os.getpid(),
    "since": 1000.5,
    "listeners": [
        {
            "scope": ["network", "n"],
            "namespace": "qdhcp-n",
            "address": "169.254.169.254",
            "port": 80,
            "since": 1,
        },
        {
            "scope": ["network", "n"],
            "namespace": "qdhcp-n",
            "address": "fe80::a9fe:a9fe",
            "port": 80,
            "since": 1,
        },
        {"scope": ["router", "r"], "namespace": "qrouter-r", "address": "::", "port": 9697, "since": 1},
    ],
    "plan": {
        "source": "neutron",
        "asked_at": 2000.0,
        "applied_at": 0,
        "problems": [{"scope": None, "text": "a problem"}],
    },
}


@pytest.fixture
def options(tmp_path):
    return {"metrics_dir": str(tmp_path / "metrics"), "node_status_file": str(tmp_path / "status")}


def read(app, **more):
    """The samples: name and label values in the order of their names -> number."""
    reply = call(app, target="/metrics", **more)
    assert reply.status == 200, reply.body
    families = text_string_to_metric_families(reply.body.decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_only_its_own_path_is_answered(options):
    behind = Seen()
    app = filter_factory({}, **options)(behind)
    assert call(app, target="/ready").body == b"seen"
    assert call(app, target="/metrics/more").body == b"seen"
    assert call(app, target="/metrics?name[]=mdmw_build_info").status == 200
    assert len(behind.environs) == 2
    assert call(app_factory({}, **options), target="/ready").status == 404


def test_with_nothing_to_say_it_says_who_it_is(options):
    found = read(app_factory({}, **options))
    assert [name for name, *_ in found] == ["mdmw_build_info"]
    assert not os.path.exists(options["metrics_dir"])


def test_openmetrics_is_for_those_who_ask_for_it(options):
    app = app_factory({}, **options)
    reply = call(app, target="/metrics", headers=[("Accept", "application/openmetrics-text;version=1.0.0")])
    assert reply.value("Content-Type").startswith("application/openmetrics-text")
    assert reply.body.endswith(b"# EOF\n")


def test_what_was_counted_is_there(options, tmp_path):
    meters = Metrics(tmp_path / "metrics", "combined")
    journal = Journal("GET", "/")
    journal.status = 404
    journal.error = "NotIdentified"
    journal.stages = {"resolve": 0.2}
    meters.over([journal])
    meters.flush()
    found = read(app_factory({}, **options))
    assert found["mdmw_requests_total", "combined", "4xx"] == 1
    assert found["mdmw_errors_total", "not_identified", "combined", "resolve"] == 1
    assert found["mdmw_stage_duration_seconds_bucket", "0.1", "combined", "resolve"] == 0
    assert found["mdmw_stage_duration_seconds_bucket", "0.25", "combined", "resolve"] == 1
    names = {one.name for one in series.ALL}
    families = {name for name, *_ in found}
    assert {name for name in families if not name.endswith(("_bucket", "_sum", "_count"))} <= names


def test_the_node_is_told_of(options, tmp_path):
    app = app_factory({}, **options)
    (tmp_path / "status").write_text(json.dumps(STATUS))
    found = read(app)
    assert found["mdmw_node_up",] == 1
    assert found["mdmw_node_start_timestamp_seconds",] == 1000.5
    assert (found["mdmw_listeners", "network"], found["mdmw_listeners", "router"]) == (2, 1)
    assert found["mdmw_namespaces",] == 2
    assert found["mdmw_plan_asked_timestamp_seconds",] == 2000
    assert found["mdmw_plan_applied_timestamp_seconds",] == 0
    assert found["mdmw_plan_problems",] == 1
    (tmp_path / "status").write_text(json.dumps(STATUS | {"pid": GONE, "plan": None, "listeners": []}))
    found = read(app)
    assert found["mdmw_node_up",] == 0
    assert found["mdmw_listeners", "router"] == 0
    assert not any("plan" in name for name, *_ in found)


@pytest.mark.parametrize("broken", ["status", "metrics"])
def test_what_cannot_be_read_is_a_503(options, tmp_path, broken, caplog):
    """A transient fault, and Prometheus takes the target for down; nothing half is shown."""
    if broken == "status":
        (tmp_path / "status").write_text("{")
    else:
        (tmp_path / "metrics").mkdir()
        (tmp_path / "metrics" / "lock").mkdir()
    reply = call(app_factory({}, **options), target="/metrics")
    assert reply.status == 503
    assert str(tmp_path).encode() not in reply.body
    assert str(tmp_path) in caplog.text


def test_an_unknown_option_is_refused():
    """As everywhere: one line with what is allowed."""
    with pytest.raises(Exception, match=r"exposition: unknown option 'metric_dir'; known are: .*metrics_dir"):
        filter_factory({}, metric_dir="/run")
