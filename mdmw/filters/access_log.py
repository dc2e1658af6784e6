"""access-log: one line for each request, as text or as JSON.

Reads: the journal of the request.
Writes: nothing. With this filter each answer has the header `X-Openstack-Request-Id`, and so has each
request that goes on to the next hop.
Answers: nothing.
Place: first. A line never holds a body, a secret, a token, a header or the query.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from oslo_config import cfg

from mdmw.observe.access_log import JSON, TEXT, AppendedFile, Form, line_of, to_stderr
from mdmw.observe.background import Batch
from mdmw.observe.journal import Journal
from mdmw.observe.recording import App, Observed
from mdmw.options import load, refuse

OPTIONS = [
    cfg.StrOpt(
        "format",
        default="text",
        choices=[
            ("text", "ten columns, then name=value"),
            ("json", "one JSON object"),
        ],
        help="Form of a line in the access log.",
    ),
    cfg.StrOpt(
        "destination",
        default="stderr",
        help="Destination of the access log: the word stderr, or the absolute path of a file. mdmw opens the "
        "file again after logrotate has moved the file away, so logrotate needs to send no signal.",
    ),
]

_FORMS: dict[str, Form] = {"text": TEXT, "json": JSON}


class AccessLog:
    """The observer: makes a line for each request, and has a thread of its own write the lines.

    A destination that blocks holds up nothing else; lines are lost when too many wait.
    """

    def __init__(self, form: Form, write: Callable[[bytes], None]) -> None:
        self._form = form
        self._lines: Batch[str] = Batch(
            lambda lines: write("".join(lines).encode("ascii")), "mdmw-access-log"
        )
        self.flush = self._lines.flush
        self.close = self._lines.close

    def over(self, journals: Sequence[Journal]) -> None:
        """Take the requests that are over (`Observer.over`)."""
        form = self._form
        self._lines.add([line_of(form, journal) for journal in journals])

    def forget(self) -> None:
        """Nothing: the batch sees by itself that the process is a forked child (`Observer.forget`)."""


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Observed]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("access-log", OPTIONS, global_conf, local_conf)
    write = _destination(settings)
    return lambda app: Observed(app, AccessLog(_FORMS[settings.format], write))


def _destination(settings: SimpleNamespace) -> Callable[[bytes], None]:
    if settings.destination == "stderr":
        return to_stderr
    path = Path(settings.destination)
    if not path.is_absolute():
        raise refuse(settings, "destination", "stderr or an absolute path is allowed")
    if not path.parent.is_dir():
        raise refuse(settings, "destination", f"there is no directory {path.parent}")
    return AppendedFile(path)
