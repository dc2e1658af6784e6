"""How a serving process has its configuration loaded again, when an operator asks for that from afar.

What it answers: `{"reloads": bool, "text": what happens, "told": [pid, ...]}`, told being the processes
that got a signal. A process that is behind one of those does not signal it a second time.
"""

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from mdmw.observe.introspection import provide


def provide_reload() -> None:
    """Answer `reload` as the server allows that loads this.

    uWSGI's own is not asked for: where it was installed by pip it begins anew as a Python
    that does not find it, and ends.
    """
    if "gunicorn.arbiter" in sys.modules:
        provide("reload", by_master)
    else:
        provide("reload", partial(by_hand, "this server cannot do it: restart it"))


def by_master(told: Sequence[int]) -> dict[str, Any]:
    """gunicorn's: it looks at the configuration first, and says in its log what it found."""
    master = os.getppid()
    if master in told:
        return _answer(True, f"process {master} was told already")
    try:
        os.kill(master, signal.SIGHUP)
    except PermissionError:
        return _answer(False, f"its master, process {master}, is of another user: reload the service")
    return _answer(True, f"process {master} got a SIGHUP; its log says what came of it", master)


def by_hand(text: str, told: Sequence[int]) -> dict[str, Any]:  # noqa: ARG001 - as the others
    """For processes that cannot; `text` says who can."""
    return _answer(False, text)


def _answer(reloads: bool, text: str, *told: int) -> dict[str, Any]:
    return {"reloads": reloads, "text": text, "told": told}
