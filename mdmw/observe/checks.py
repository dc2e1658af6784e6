"""Whether this process could serve a guest now: one check for each thing it depends on."""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from mdmw.errors import MdmwError
from mdmw.wire import one_line

LOG = logging.getLogger(__name__)

_REMEMBERED = 2.0  # seconds; however often somebody asks, the cloud is not asked more often
_PATIENCE = 5.0


class Check:
    """One of them. `look` says in a few words what is right, or raises `MdmwError`."""

    def __init__(self, look: Callable[[], str], remembered: float = _REMEMBERED) -> None:
        self._look = look
        self._remembered = remembered
        self._lock = threading.Lock()
        self._running: threading.Event | None = None
        self._result: dict[str, Any] = {}
        self._ended = -math.inf

    def begin(self) -> None:
        """Look again, in a thread, unless somebody is looking or did so a moment ago."""
        with self._lock:
            if self._running is None and time.monotonic() - self._ended >= self._remembered:
                self._running = threading.Event()
                threading.Thread(target=self._run, name="mdmw-check", daemon=True).start()

    def result(self, deadline: float) -> dict[str, Any]:
        """What was found, or that it takes too long; waits until `deadline` (monotonic) at most."""
        running = self._running
        if running is not None and not running.wait(max(deadline - time.monotonic(), 0)):
            return {"ok": False, "text": "no result in time", "seconds": _PATIENCE, "at": time.time()}
        return self._result

    def _run(self) -> None:
        at, began = time.time(), time.monotonic()
        try:
            text, ok = self._look(), True
        except MdmwError as error:
            text, ok = one_line(str(error)), False
        except Exception:
            LOG.exception("a check ended in a way that nobody meant")
            text, ok = "a defect; there is a traceback in the log of the process", False
        with self._lock:
            self._ended = time.monotonic()
            self._result = {"ok": ok, "text": text, "seconds": round(self._ended - began, 6), "at": at}
            running, self._running = self._running, None
        if running is not None:
            running.set()


_CHECKS: dict[str, Check] = {}


def provide_check(name: str, look: Callable[[], str]) -> None:
    """Have something checked; who provides it last counts."""
    _CHECKS[name] = Check(look)


def checks() -> dict[str, Any]:
    """The answer to `checks`: what is right, and what is not, by name; within 5 s."""
    deadline = time.monotonic() + _PATIENCE
    for check in _CHECKS.values():
        check.begin()
    return {name: check.result(deadline) for name, check in _CHECKS.items()}
