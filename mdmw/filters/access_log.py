"""access-log: one line for each request, JSON or text.

Reads: the journal of the request.
Writes: nothing; with it each answer has an `X-Openstack-Request-Id`, and each request that goes on too.
Answers: nothing.
Place: first. Never in a line: a body, a secret, a token, a header, the query.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from oslo_config import cfg

from mdmw.boundary.stage import App
from mdmw.observe.access_log import JSON, TEXT, AppendedFile, Form, Lines, to_stderr
from mdmw.observe.background import Losses, Observed
from mdmw.options import load, refuse

OPTIONS = [
    cfg.StrOpt(
        "format",
        default="text",
        choices=[("text", "ten columns, then name=value"), ("json", "one object")],
        help="How a line of the access log looks.",
    ),
    cfg.StrOpt(
        "destination",
        default="stderr",
        help="Where the access log goes: stderr, or an absolute path of a file. The file is opened anew "
        "when it was moved away, so logrotate needs no signal.",
    ),
]

_FORMS: dict[str, Form] = {"text": TEXT, "json": JSON}


class AccessLog:
    """The observer: a line for each request."""

    def __init__(self, form: Form, write: Callable[[bytes], None]) -> None:
        self._lines = Lines(form)
        self._losses = Losses()
        self._write = write
        self.over = self._lines.over

    def flush(self) -> None:
        """As `Observer`."""
        text, number, lost = self._lines.take()
        self._losses.number += lost
        with self._losses.of(number):
            self._write(text)

    def forget(self) -> None:
        """As `Observer`."""
        self._lines.take()


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Observed]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("access-log", OPTIONS, global_conf, local_conf)
    return partial(Observed, observer=AccessLog(_FORMS[settings.format], _destination(settings)))


def _destination(settings: SimpleNamespace) -> Callable[[bytes], None]:
    if settings.destination == "stderr":
        return to_stderr
    path = Path(settings.destination)
    if not path.is_absolute():
        raise refuse(settings, "destination", "stderr or an absolute path is allowed")
    if not path.parent.is_dir():
        raise refuse(settings, "destination", f"there is no directory {path.parent}")
    return AppendedFile(path)
