"""introspect: lets root, and this process's own user, ask each serving process about itself.

Reads: the journal of each request.
Writes: nothing.
Answers: nothing; questions come over unix sockets in `introspect_dir`, never from a guest.
Place: first, behind access-log and metrics if they are there.
"""

import os
import resource
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from oslo_config import cfg

from mdmw.boundary.stage import App
from mdmw.errors import BadRequest
from mdmw.observe.background import Observed, flush
from mdmw.observe.counters import Tally
from mdmw.observe.introspection import Desk, checks, provide
from mdmw.observe.journal import Journal
from mdmw.options import PIPELINE, load

OPTIONS = [
    cfg.StrOpt(
        "introspect_dir",
        default="/run/mdmw/processes",
        help="Directory for the sockets, made with mode 0700 if it is not there. A process that cannot "
        "have its socket there says so in the log, and serves without.",
    ),
]

_MOST_RECENT = 1000


class Recorder:
    """The observer: counts requests, and has the desk open from the first one on."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tally = Tally()
        self.over = self._tally.over
        self.forget = self._tally.forget

    def flush(self) -> None:
        """As `Observer`."""
        if not self._desk.is_open:
            self._desk.open()

    def process(self) -> dict[str, Any]:
        """The answer to `process`: that it is there."""
        return {"pid": os.getpid(), "threads": threading.active_count(), "memory": _memory()}

    def counters(self) -> dict[str, Any]:
        """The answer to `counters`: requests of each network and router since this process began."""
        flush()
        return self._tally.counters()

    def recent(
        self, limit: int = 100, scope: list[str] | None = None, instance: str | None = None
    ) -> list[dict[str, Any]]:
        """The answer to `recent`: the last requests, the newest first, of a scope or an instance."""
        if not isinstance(limit, int) or not 0 < limit <= _MOST_RECENT:
            raise BadRequest(f"limit: 1 to {_MOST_RECENT} is allowed")
        flush()
        return self._tally.recent(limit, partial(_concerns, scope, instance))


def _memory() -> int:
    """Bytes of RAM that are in use, those that are shared with other processes included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _concerns(scope: list[str] | None, instance: str | None, journal: Journal) -> bool:
    if scope is not None:
        source = journal.source
        if source is None or [source.scope.kind, source.scope.id] != scope:
            return False
    return instance is None or (journal.instance is not None and journal.instance.id == instance)


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Observed]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("introspect", OPTIONS, global_conf, local_conf)
    recorder = Recorder(Desk(Path(settings.introspect_dir), global_conf.get(PIPELINE, "mdmw")))
    provide("process", recorder.process)
    provide("checks", checks)
    provide("counters", recorder.counters)
    provide("recent", recorder.recent)
    return partial(Observed, observer=recorder)
