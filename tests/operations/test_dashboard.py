"""The operators' page: its files, and what its script makes of what a registry really says."""

import json
import shutil
import subprocess
from importlib import resources

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from webob import Request

from mdmw.errors import ConfigError
from mdmw.operations.dashboard import filter_factory

SCRIPT = resources.files("mdmw.operations") / "page" / "dashboard.js"


def behind(environ, start_response):
    start_response("404 Not Found", [])
    return [b"behind"]


@pytest.fixture
def page():
    return filter_factory({})(behind)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("/", "text/html"), ("/dashboard.css", "text/css"), ("/dashboard.js", "text/javascript")],
)
def test_files(page, path, content_type):
    answer = Request.blank(path).get_response(page)
    assert (answer.status_int, answer.content_type) == (200, content_type)
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    again = Request.blank(path, headers={"If-None-Match": f'"{answer.etag}"'})
    assert again.get_response(page).status_int == 304


def test_the_page_names_only_what_is_there(page):
    text = Request.blank("/").get_response(page).text
    for name in ("dashboard.css", "dashboard.js"):
        assert f'"{name}"' in text
        assert Request.blank(f"/{name}").get_response(page).status_int == 200


def test_the_rest_is_for_the_next_application(page):
    for path in ("/metrics", "/ready", "/dashboard.html", ""):
        assert Request.blank(path or "/x").get_response(page).body == b"behind"


def test_no_options():
    with pytest.raises(ConfigError, match="colour"):
        filter_factory({}, colour="red")


class Browser:
    """Runs expressions in the script's own scope, with looks `before` and `now`, 2 s apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.looks: list[str] = []

    def look(self) -> None:
        self.looks.append(generate_latest(self.registry).decode())

    def value(self, expression: str) -> object:
        program = (
            "const vm = require('vm'), input = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
            "const scope = vm.createContext({input});"
            "vm.runInContext(input.script, scope);"
            "const look = '(text, at) => ({at: at * 2000, series: read(text)})';"
            "vm.runInContext(`var [before, now] = input.looks.map(${look})`, scope);"
            "process.stdout.write(JSON.stringify(vm.runInContext(input.expression, scope)))"
        )
        given = {"script": SCRIPT.read_text(), "looks": self.looks, "expression": expression}
        words = ["node", "-e", program]
        done = subprocess.run(words, input=json.dumps(given), capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs node (nodejs) for the page's script")


@needs_node
def test_rates_are_of_the_time_between_two_looks():
    browser = Browser()
    counter = Counter("mdmw_requests", "x", ["pipeline", "status"], registry=browser.registry)
    counter.labels("agent", "2xx").inc(5)
    browser.look()
    counter.labels("agent", "2xx").inc(40)
    counter.labels("agent", "5xx").inc(10)
    counter.labels("proxy", "2xx").inc(4)
    browser.look()
    rates = 'rates(now, before, "mdmw_requests_total", "pipeline")'
    assert browser.value(f"[...{rates}].sort()") == [["agent", 25], ["proxy", 2]]
    assert browser.value("TILES[0][2](now, before)") == 25
    assert browser.value("TILES[1][2](now, before)") == 5
    browser.looks.reverse()  # a process that began anew
    assert browser.value(f"[...{rates}]") == [["agent", 2.5]]


@needs_node
def test_quantiles_are_inside_their_bucket():
    browser = Browser()
    histogram = Histogram(
        "mdmw_request_duration_seconds", "x", ["pipeline"], buckets=(0.01, 0.1, 1), registry=browser.registry
    )
    Counter("mdmw_requests", "x", ["pipeline"], registry=browser.registry).labels("agent").inc()
    for value in (0.5,) * 8:
        histogram.labels("agent").observe(value)
    browser.look()
    for value in (0.05,) * 98 + (3, 3):
        histogram.labels("agent").observe(value)
    browser.look()
    found = dict(browser.value("[...quantiles(now, before)]"))
    assert 0.01 < found["agent p50"] < 0.1
    assert found["agent p99"] == 1  # all that is known: it took longer than the last bound
    assert browser.value('quantile(now, now, "mdmw_request_duration_seconds", () => true, .5)') is None


@needs_node
def test_labels_with_every_character():
    browser = Browser()
    Counter("mdmw_errors", "x", ["error"], registry=browser.registry).labels('a"b\\c,d{}').inc()
    browser.look()
    browser.look()
    assert browser.value('[...sums(now.series, "mdmw_errors_total", "error").values()]') == [1]
