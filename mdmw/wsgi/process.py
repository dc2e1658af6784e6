"""What a serving process sets for itself, and what it answers about itself.

A command or a module `mdmw.wsgi.NAME` calls these functions; importing a module of mdmw changes nothing.

`reload` is the question with which an operator has a process load its configuration again. Its answer is
`{"reloads": bool, "text": what happens, "told": [pid, ...]}`, where `told` lists the processes that got a
signal. A process that such a process starts again does not signal it a second time.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mdmw.boundary.stage import App, chain
from mdmw.observe.introspection import Answerer
from mdmw.observe.logs import log_to_stderr

#: Seconds after which a thread must let another thread run. A request computes for less than 1 ms and waits
#: otherwise; to ask for the interpreter every 5 ms, as Python does by default, is only work for the kernel.
SWITCH_INTERVAL = 0.1
_OBJECTS = 10_000  # objects between two garbage collections: requests leave hardly any cycles


def prepare() -> None:
    """Before a pipeline is loaded: loggers, switching between threads, garbage collection."""
    log_to_stderr()
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(_OBJECTS)


def serve(application: App) -> None:
    """After a pipeline was loaded, by a server that imports `mdmw.wsgi.NAME`."""
    gc.freeze()  # workers share what is there now, and need not look through it
    start: Callable[[], None] = partial(start_answering, application, reload_of_server())
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None:
        start()
    else:  # uWSGI loads the application before it forks the processes that serve
        uwsgi.post_fork_hook = start  # type: ignore[attr-defined]  # a module that uWSGI makes


def start_answering(application: App, reload: Answerer) -> None:
    """Open the introspection sockets of a pipeline in this process, which is about to serve."""
    for stage in chain(application):
        if (introspection := getattr(stage, "introspection", None)) is not None:
            introspection.also_answer("reload", reload)
            introspection.open()


def reload_of_server() -> Answerer:
    """The answer to `reload` of the server that runs this process.

    uWSGI is not asked to reload: where it was installed by pip, uWSGI starts again as a Python that does not
    find it, and ends.
    """
    if "gunicorn.arbiter" in sys.modules:
        return by_master
    return partial(by_hand, "this server cannot reload its configuration: restart it")


def by_master(told: Sequence[int]) -> dict[str, Any]:
    """Have gunicorn's master reload: it checks the configuration first, and its log has the result."""
    master = os.getppid()
    if master in told:
        return _answer(True, f"process {master} was told already")
    try:
        os.kill(master, signal.SIGHUP)
    except PermissionError:
        return _answer(False, f"its master, process {master}, is of another user: reload the service")
    return _answer(True, f"process {master} got a SIGHUP; its log has the result", master)


def by_hand(text: str, told: Sequence[int]) -> dict[str, Any]:  # noqa: ARG001 - as `by_master`
    """The answer of a process that cannot reload; `text` says what the operator can do."""
    return _answer(False, text)


def _answer(reloads: bool, text: str, *told: int) -> dict[str, Any]:
    return {"reloads": reloads, "text": text, "told": told}
