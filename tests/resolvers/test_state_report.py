"""The state report, over a real RabbitMQ."""

import gc
import logging
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import neutron_rpc_server
import pytest
from peers import PATIENCE

from mdmw.resolvers.shared import GROUP_DIRECTORY
from mdmw.resolvers.state_report import start_reporting

# A connection that breaks under kombu is left to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SOCKET = "/var/lib/neutron/metadata_proxy"


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """What kombu left is collected here, not in the tests of others."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def _served(rabbit):
    reports = neutron_rpc_server.Reports()
    with neutron_rpc_server.serving(rabbit.url(), "q-reports-plugin", reports):
        yield reports


@pytest.fixture
def reports(_served):
    """Neutron, which has not heard of us yet."""
    _served.received.clear()
    return _served


@pytest.fixture
def files(tmp_path):
    """Writes a configuration file, and names it as a paste file does."""

    def write(*lines, name="neutron.conf"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return {"config_file": str(tmp_path / name)}

    return write


@pytest.fixture
def reporting():
    """Starts reporters, and stops them after the test."""
    started = []

    def start(global_conf):
        started.append(start_reporting(global_conf, SOCKET))
        return started[-1]

    yield start
    for reporter in filter(None, started):
        reporter.stop(PATIENCE)


def often(url, *lines):
    return ["[DEFAULT]", f"transport_url = {url}", *lines, "[agent]", "report_interval = 0.1"]


def test_what_neutron_is_told(rabbit, reports, files, reporting):
    """1.9, 5.1: what neutron-metadata-agent reports, and that it has just started the first time only."""
    lines = often(rabbit.url(), "host = net-1", "nova_metadata_ip = 192.0.2.1", "nova_metadata_port = 8776")
    reporting(files(*lines, "log_agent_heartbeats = true"))
    reports.wait_for(3)
    first, second, _ = reports.received[:3]
    assert first.pop("start_flag") is True
    assert first.pop("uuid") != second.pop("uuid")
    ages = [datetime.fromisoformat(report.pop("time")) for report in (first, second)]
    assert abs((ages[0] - datetime.now(UTC).replace(tzinfo=None)).total_seconds()) < PATIENCE
    assert ages[0] < ages[1]
    assert first == second
    assert first == {
        "agent_type": "Metadata agent",
        "binary": "neutron-metadata-agent",
        "topic": "N/A",
        "host": "net-1",
        "configurations": {
            "metadata_proxy_socket": SOCKET,
            "nova_metadata_host": "192.0.2.1",
            "nova_metadata_port": 8776,
            "log_agent_heartbeats": True,
        },
    }


def test_the_host_is_this_one_unless_the_files_say_otherwise(rabbit, reports, files, reporting):
    reporting(files(*often(rabbit.url())))
    reports.wait_for(1)
    assert reports.received[0]["host"] == socket.gethostname()


def test_it_survives_that_rabbitmq_goes_away(rabbit, relay, reports, files, reporting, caplog):
    """One line when it fails, one when it works again, and no password in any."""
    caplog.set_level(logging.INFO)
    relay.down()
    began = time.monotonic()
    reporter = reporting(files(*often(rabbit.url(relay.port))))
    assert time.monotonic() - began < 1.0
    wait_for_line(caplog, "Neutron gets no state report for now")
    relay.up()
    reports.wait_for(2)
    assert reports.received[0]["start_flag"] is True
    relay.down()
    relay.up()
    reports.received.clear()
    reports.wait_for(2)
    assert "start_flag" not in reports.received[0]
    reporter.stop(PATIENCE)
    lines = [record.getMessage() for record in caplog.records if record.name == "mdmw.resolvers.state_report"]
    assert "refused" in lines[0].lower()
    assert lines[1].startswith("Neutron gets state reports")
    assert rabbit.password not in caplog.text


def test_stopping_does_not_wait_for_rabbitmq(rabbit, relay, files):
    relay.silence()
    reporter = start_reporting(files(*often(rabbit.url(relay.port))), SOCKET)
    began = time.monotonic()
    reporter.stop(0.2)
    assert time.monotonic() - began < 1.0


_PROCESS = """
import sys
from mdmw.resolvers.state_report import start_reporting
start_reporting({"config_file": sys.argv[1]}, sys.argv[2])
print("started", flush=True)
sys.stdin.read()
"""


def test_one_process_of_a_group_reports_and_another_takes_over(rabbit, reports, files, tmp_path, monkeypatch):
    """Neutron hears of one agent, whatever the number of its workers."""
    monkeypatch.setenv(GROUP_DIRECTORY, str(tmp_path))
    path = files(*often(rabbit.url()))["config_file"]

    def process(name):
        command = [sys.executable, "-c", _PROCESS, path, name]
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert started.stdout.readline() == "started\n"
        return started

    def heard():
        return {report["configurations"]["metadata_proxy_socket"] for report in reports.received}

    with process("first") as first, process("second") as second:
        reports.wait_for(10)
        (reporter,) = heard()
        {"first": first, "second": second}[reporter].kill()
        reports.received.clear()
        reports.wait_until(lambda: heard() - {reporter})
        assert next(r for r in reports.received if r["configurations"]["metadata_proxy_socket"] != reporter)[
            "start_flag"
        ]
        first.kill()
        second.kill()


@pytest.mark.parametrize(
    "lines",
    [["[DEFAULT]"], ["[DEFAULT]", "transport_url = rabbit://h/", "[AGENT]", "report_interval = 0"]],
)
def test_nothing_to_report_to(files, lines, caplog):
    assert start_reporting(files(*lines), SOCKET) is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("line", "said"),
    [("report_interval = often", "report_interval"), ("log_agent_heartbeats = 7", "log_agent_heartbeats")],
)
def test_options_that_cannot_be_used_stop_nothing(files, caplog, line, said):
    lines = ["[DEFAULT]", "transport_url = rabbit://neutron:secret@h/", "[AGENT]", line]
    assert start_reporting(files(*lines), SOCKET) is None
    assert "Neutron gets no state report: state-report: [AGENT]: " in caplog.text
    assert said in caplog.text


def test_no_directory_of_the_group_stops_nothing(files, reporting, caplog, tmp_path, monkeypatch):
    monkeypatch.setenv(GROUP_DIRECTORY, str(tmp_path / "none"))
    reporting(files(*often("rabbit://neutron:secret@h/")))
    wait_for_line(caplog, "Neutron gets no state report: [Errno 2]")


def test_without_oslo_messaging(files, reporting, caplog, monkeypatch):
    """An agent that uses REST serves all the same."""
    monkeypatch.setitem(sys.modules, "oslo_messaging", None)
    reporting(files(*often("rabbit://neutron:secret@h/")))
    wait_for_line(caplog, "the extra mdmw[rpc]")


def wait_for_line(caplog, text):
    deadline = time.monotonic() + PATIENCE
    while text not in caplog.text:
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.01)
