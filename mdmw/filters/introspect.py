"""introspect: lets root, and the user of the process, ask each serving process about itself.

Reads: the journal of each request; what the stages behind it can check and answer.
Writes: nothing.
Answers: nothing to guests. Questions come over unix sockets in `introspect_dir`.
Place: first, behind access-log and metrics if they are there.
"""

import os
import resource
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from oslo_config import cfg

from mdmw.boundary.stage import checks_of, questions_of
from mdmw.errors import BadRequest
from mdmw.observe.counters import ServedRequests
from mdmw.observe.introspection import Checks, IntrospectionSocket
from mdmw.observe.journal import Journal
from mdmw.observe.recording import App, Observed
from mdmw.options import PIPELINE, load

OPTIONS = [
    cfg.StrOpt(
        "introspect_dir",
        default="/run/mdmw/processes",
        help="Directory for the introspection sockets of the serving processes. mdmw makes the directory "
        "with mode 0700 if it does not exist. A process that cannot make its socket there says so in its "
        "log, and serves without it.",
    ),
]

_MOST_RECENT = 1000


class Introspection:
    """The observer: counts requests, and has the socket open from the first request on."""

    def __init__(self, app: App, directory: Path, pipeline: str) -> None:
        self.served = ServedRequests()
        self.socket = IntrospectionSocket(
            directory,
            pipeline,
            {
                **questions_of(app),
                "process": process,
                "checks": Checks(checks_of(app)).answer,
                "counters": self.counters,
                "recent": self.recent,
            },
        )
        #: Tells the observers of the requests that are over; who makes the filter knows how.
        self.catch_up: Callable[[], None] = lambda: None

    def over(self, journals: Sequence[Journal]) -> None:
        """Take the requests that are over (`Observer.over`)."""
        self.served.add(journals)
        if not self.socket.is_open:
            self.socket.open()

    def forget(self) -> None:
        """Drop what the parent of this forked child had counted (`Observer.forget`)."""
        self.served = ServedRequests()

    def close(self) -> None:
        """Finish, since the process or the pipeline ends (`Observer.close`)."""
        self.socket.close()

    def counters(self) -> dict[str, Any]:
        """The answer to `counters`: requests of each network and router since the process began."""
        self.catch_up()
        return self.served.counters()

    def recent(
        self, limit: int = 100, scope: list[str] | None = None, instance: str | None = None
    ) -> list[dict[str, Any]]:
        """The answer to `recent`: the last requests, the newest first, of a scope or an instance."""
        if not isinstance(limit, int) or not 0 < limit <= _MOST_RECENT:
            raise BadRequest(f"limit: 1 to {_MOST_RECENT} is allowed")
        self.catch_up()
        return self.served.recent(limit, partial(_concerns, scope, instance))


class Introspected(Observed):
    """The filter; `introspection` is the socket, which the process opens when it begins to serve."""

    def __init__(self, app: App, observer: Introspection) -> None:
        super().__init__(app, observer)
        observer.catch_up = self.finished.tell
        self.introspection = observer.socket


def process() -> dict[str, Any]:
    """The answer to `process`: that the process is there."""
    return {"pid": os.getpid(), "threads": threading.active_count(), "memory": _memory()}


def _memory() -> int:
    """Bytes of RAM that are in use, shared pages included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _concerns(scope: list[str] | None, instance: str | None, journal: Journal) -> bool:
    if scope is not None:
        source = journal.source
        if source is None or [source.scope.kind, source.scope.id] != scope:
            return False
    return instance is None or (journal.instance is not None and journal.instance.id == instance)


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Introspected]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("introspect", OPTIONS, global_conf, local_conf)
    directory, pipeline = Path(settings.introspect_dir), global_conf.get(PIPELINE, "mdmw")
    return lambda app: Introspected(app, Introspection(app, directory, pipeline))
