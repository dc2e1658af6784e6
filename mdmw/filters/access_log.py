"""access-log: one line for each request, JSON or text.

Reads: the journal of the request.
Writes: nothing; with it each answer has an `X-Openstack-Request-Id`, and each request that goes on too.
Answers: nothing.
Place: first. Never in a line: a body, a secret, a token, a header, the query.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from oslo_config import cfg

from mdmw.boundary.base import App
from mdmw.boundary.observer import Observed
from mdmw.observe.appending import AppendedFile, to_stderr
from mdmw.observe.lines import Line, json_line, text_line
from mdmw.observe.recording import Journal
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

_LINES: dict[str, Line] = {"text": text_line, "json": json_line}


class AccessLog:
    """The observer: writes a line for each journal."""

    def __init__(self, line: Line, write: Callable[[Iterable[str]], None]) -> None:
        self._line = line
        self._write = write

    def over(self, journals: Sequence[Journal]) -> None:
        """As `Observer`."""
        self._write(map(self._line, journals))


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Observed]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("access-log", OPTIONS, global_conf, local_conf)
    return partial(Observed, observer=AccessLog(_LINES[settings.format], _destination(settings)))


def _destination(settings: SimpleNamespace) -> Callable[[Iterable[str]], None]:
    if settings.destination == "stderr":
        return to_stderr
    path = Path(settings.destination)
    if not path.is_absolute():
        raise refuse(settings, "destination", "stderr or an absolute path is allowed")
    if not path.parent.is_dir():
        raise refuse(settings, "destination", f"there is no directory {path.parent}")
    return AppendedFile(path)
