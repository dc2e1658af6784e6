"""dashboard: a page that draws the metrics of `exposition`, for a host without Grafana.

Reads: the path.
Answers: GET / and the files of the page. The next application answers other paths.
Place: on the listener of operators, before `exposition`; no guest may reach this pipeline.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib import resources

from oslo_config import cfg
from webob import Response

from mdmw.boundary.stage import App, StartResponse
from mdmw.options import load
from mdmw.records import Environ

_FILES = {"/": "dashboard.html", "/dashboard.css": "dashboard.css", "/dashboard.js": "dashboard.js"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
# Only files of this server; a style attribute has the colour of a line.
_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"

OPTIONS: list[cfg.Opt] = []


class Dashboard:
    """Answers requests for three files of the package, and passes on the others."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._pages = {path: _page(name) for path, name in _FILES.items()}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return self._pages.get(environ.get("PATH_INFO", ""), self.app)(environ, start_response)


def _page(name: str) -> App:
    body = (resources.files("mdmw.operations") / "page" / name).read_bytes()
    content_type = _TYPES[name.rpartition(".")[2]]
    response = Response(body, content_type=content_type, charset="UTF-8", conditional_response=True)
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.md5_etag()
    page: App = response
    return page


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Dashboard]:
    """Paste entry point; raises `ConfigError`."""
    load("dashboard", [], global_conf, local_conf)
    return Dashboard
