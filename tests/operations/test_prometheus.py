"""The alerts and the dashboard against the real Prometheus, which scrapes a pipeline that serves guests."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from certificates import Authority
from peers import peers_in, response
from servers.launch import SERVERS, Listener
from servers.pipelines import STRANGER, Guest, write
from servers.running import Configuration, Running, started
from servers.traits import TRAITS

from mdmw import errors
from mdmw.observe import series
from mdmw.observe.journal import CACHE_OUTCOMES

ETC = Path(__file__).parents[2] / "etc"
DOC = ETC.parent / "doc"
ALERTS = ETC / "prometheus" / "alerts.yml"
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ETC / "grafana" / "mdmw.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="needs Debian's prometheus"
)

_METRICS = """
[pipeline:operations]
pipeline = exposition
[filter:metrics]
use = egg:mdmw#metrics
metrics_dir = %(here)s/metrics
[app:exposition]
use = egg:mdmw#exposition
metrics_dir = %(here)s/metrics
node_status_file = %(here)s/node-status.json
"""
_LABEL = re.compile(r'(\w+)=~?"([^"]*)"')
_CLOSED = {
    "status": {"2xx", "3xx", "4xx", "5xx", "none"},
    "stage": {*series.STAGES, series.OTHER},
    "error": {series.error_label(name) for name in vars(errors)},
    "outcome": set(CACHE_OUTCOMES),
    "job": {"mdmw"},
    "alertstate": {"firing"},
    "alertname": {rule["alert"] for rule in RULES},
}


def queries(panel):
    """What a panel asks for, with its variables as `All`."""
    for target in panel["targets"]:
        text = target["expr"].replace("$__rate_interval", "1m")
        yield text.replace("$instance", ".*").replace("$pipeline", ".*")


EXPRESSIONS = [*(rule["expr"] for rule in RULES), *(query for panel in PANELS for query in queries(panel))]

# --- what needs no Prometheus -----------------------------------------------------------


def test_only_series_that_there_are_are_used():
    names = {one.name for one in series.ALL}
    names |= {f"{one.name}_{part}" for one in series.ALL for part in ("bucket", "sum", "count")}
    used = {name for text in EXPRESSIONS for name in re.findall(r"\bmdmw_\w+", text)}
    assert used <= names
    assert {one.name for one in series.ALL} <= {re.sub("_(bucket|sum|count)$", "", name) for name in used}


def test_only_values_of_labels_that_there_are_are_asked_for():
    for text in EXPRESSIONS:
        for label, value in _LABEL.findall(text):
            if value != ".*":
                assert any(re.fullmatch(value, known) for known in _CLOSED[label]), (label, value)


def test_every_alert_has_its_page_and_every_page_its_alert():
    pages = {rule["annotations"]["runbook_url"] for rule in RULES}
    assert len(pages) == len(RULES)
    assert pages == {f"doc/alerts/{path.name}" for path in DOC.glob("alerts/mdmw-*.rst")}
    listed = (DOC / "alerts" / "index.rst").read_text()
    for rule in RULES:
        name = re.sub("(?<!^)(?=[A-Z])", "-", rule["alert"]).lower()
        page = DOC / "alerts" / f"{name}.rst"
        assert rule["annotations"]["runbook_url"] == f"doc/alerts/{name}.rst"
        title, line, *_ = page.read_text().splitlines()
        assert (title, line) == (rule["alert"], "=" * len(title))
        headings = re.findall(r"^(.+)\n-+$", page.read_text(), re.MULTILINE)
        assert headings == ["What it means", "How to see it", "What to do"], name
        assert f"    {name}\n" in listed
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_the_dashboard_is_one_that_grafana_imports():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) <= variables | {"__rate_interval", "__all"}
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


# --- promtool ---------------------------------------------------------------------------


@needs_prometheus
@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
)
def test_promtool_is_content(words):
    done = subprocess.run(
        ["promtool", *words], cwd=ETC / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test_of_promtool():
    tests = yaml.safe_load((ETC / "prometheus" / "alerts_test.yml").read_text())["tests"]
    assert [test["name"] for test in tests] == ["a node that is well", *(rule["alert"] for rule in RULES)]
    for test in tests[1:]:
        samples = test["promql_expr_test"][0]["exp_samples"]
        assert samples == [{"labels": f'{{alertname="{test["name"]}"}}', "value": 1}]


# --- Prometheus -------------------------------------------------------------------------


class Prometheus:
    """A running one. `wait_for` asks until there is an answer with a sample in it."""

    def __init__(self, url):
        self._url = url

    def ask(self, path, **parameters):
        text = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{text}", timeout=10) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{parameters}: {error.read().decode()}")

    def samples(self, query):
        return self.ask("query", query=query)["result"]

    def wait_for(self, query):
        pause = threading.Event()
        while not (found := self.samples(query)):
            pause.wait(0.1)  # ended by the time limit of the test
        return found

    def wait_until_ready(self, process):
        pause = threading.Event()
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._url}/-/ready", timeout=1):
                return
            pause.wait(0.05)
        pytest.fail("prometheus has ended")


@contextlib.contextmanager
def process(command, **more):
    running = subprocess.Popen(list(map(str, command)), **more)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


@contextlib.contextmanager
def prometheus(directory, target):
    """The shipped configuration, but quicker and with another target."""
    config = yaml.safe_load((ETC / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(ALERTS)]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:  # it cannot choose by itself and tell
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        *("prometheus", f"--config.file={directory}/prometheus.yml"),
        *(f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}", "--log.level=warn"),
    ]
    with process(command) as running:
        made = Prometheus(f"http://{address}")
        made.wait_until_ready(running)
        yield made


def nova(conversation):
    """It refuses one path."""
    while received := conversation.request():
        refused = "refuse" in received.target
        conversation.send(response("403 Forbidden") if refused else response("200 OK", b"metadata"))


def configured(directory, address, authority):
    """An agent that speaks TLS with a certificate of its own, a secret in a file, and a node beside it."""
    ini = write(directory, directory / "nowhere")
    (directory / "secret").write_text("secret\n")
    certificate, key = authority.issue("client")
    to_nova = (
        f"nova_metadata_host = 127.0.0.1:{address.port}\nnova_metadata_protocol = https\n"
        f"auth_ca_cert = {authority.file}\nnova_client_cert = {certificate}\nnova_client_priv_key = {key}\n"
    )
    text = ini.read_text().replace("pipeline = identify", "pipeline = metrics identify")
    text = re.sub(
        "metadata_proxy_shared_secret = .*", f"metadata_proxy_shared_secret_file = {directory}/secret", text
    )
    ini.write_text(text.replace(f"nova_metadata_host = unix:{directory}/nowhere\n", to_nova) + _METRICS)
    listener = {
        "scope": ["network", "n"],
        "namespace": "n",
        "address": "169.254.169.254",
        "port": 80,
        "since": 1,
    }
    plan = {"source": "neutron", "asked_at": 1, "applied_at": 1, "problems": []}
    status = {"version": 1, "pid": os.getpid(), "since": 1, "listeners": [listener], "plan": plan}
    (directory / "node-status.json").write_text(json.dumps(status))
    return ini


@pytest.fixture(scope="module")
def scraped():
    """Prometheus, and the agent that it sees."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdmw-")))
        authority = Authority(directory, "nova")
        peer = stack.enter_context(peers_in(str(directory))).tcp(nova, tls=authority.server("127.0.0.1"))
        ini = configured(directory, peer.address, authority)
        listener = Listener(directory / "agent")
        launch = SERVERS["gunicorn"]("agent", [listener])
        stack.enter_context(started(launch, ini, (listener,), None, directory / "log"))
        # Connections wait at this socket until the server is there.
        shown = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        bind = f"fd://{shown.fileno()}"
        command = [
            sys.executable,
            "-m",
            "mdmw",
            "serve",
            "operations",
            "--ini",
            ini,
            "--bind",
            bind,
            "--workers",
            "1",
        ]
        log = stack.enter_context((directory / "operations.log").open("wb"))
        stack.enter_context(process(command, pass_fds=[shown.fileno()], stderr=log, stdout=log))
        target = f"127.0.0.1:{shown.getsockname()[1]}"
        made = stack.enter_context(prometheus(directory, target))
        agent = Running(
            Configuration("gunicorn", "unix", "agent"),
            TRAITS["gunicorn"],
            (listener,),
            None,
            directory / "log",
        )
        yield made, agent


@needs_prometheus
@pytest.mark.timeout(90)
def test_everything_is_there_and_alerts_fire(scraped):
    """Guests ask, some are unknown, Nova refuses; each series, each query of the dashboard, two alerts."""
    found, agent = scraped
    stranger = Guest(STRANGER, "", "")
    for turn in ("first", "again"):
        assert agent.ask("/latest/").status == 200
        assert agent.ask("/refuse").status == 403
        assert agent.ask("/", guest=stranger).status == 404
        number = 1 if turn == "first" else 2
        found.wait_for(f'mdmw_errors_total{{error="not_identified"}} >= {number}')
    refused = found.wait_for('ALERTS{alertname="MdmwSecretRefused", alertstate="firing"}')
    assert refused[0]["metric"]["pipeline"] == "agent"
    assert refused[0]["metric"]["severity"] == "critical"
    expiring = found.wait_for('count(ALERTS{alertname="MdmwCertificateExpires", alertstate="firing"}) == 2')
    assert expiring
    there = found.ask("label/__name__/values")
    used = {name for text in EXPRESSIONS for name in re.findall(r"\bmdmw_\w+", text)}
    assert used <= set(there)
    for text in EXPRESSIONS:
        assert found.ask("query", query=text)["resultType"] == "vector"
    for panel in PANELS:
        for query in queries(panel):
            assert found.wait_for(query), panel["title"]
    loaded = [rule for group in found.ask("rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in loaded] == [rule["alert"] for rule in RULES]
    assert {rule["health"] for rule in loaded} == {"ok"}
