"""Run the checks of the doctor at the same time, and stop waiting when the time is over."""

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping

from mdmw.errors import MdmwError

#: Errors that say why a check could not be made. Any other error is a defect of mdmw.
_EXPECTED = (MdmwError, OSError, subprocess.SubprocessError)

_MOST_AT_ONCE = 16  # threads

Outcomes = queue.SimpleQueue[tuple[str, Exception | None]]


def run_in_parallel(tasks: Mapping[str, Callable[[], None]], end: float) -> dict[str, str]:
    """Run each of the named `tasks` until `end` (of `time.monotonic`).

    Returns the tasks that were not completed: name -> reason. A task that takes longer continues in a daemon
    thread; nobody waits for the thread, and the process may end meanwhile.
    """
    waiting = queue.SimpleQueue[str]()
    outcomes: Outcomes = queue.SimpleQueue()
    for name in tasks:
        waiting.put(name)

    def work() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                tasks[name]()
            except Exception as error:
                outcomes.put((name, error))
            else:
                outcomes.put((name, None))

    for _ in range(min(_MOST_AT_ONCE, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    return _not_completed(dict.fromkeys(tasks, "no time was left"), outcomes, end)


def _not_completed(running: dict[str, str], outcomes: Outcomes, end: float) -> dict[str, str]:
    failed = {}
    while running:
        try:
            name, error = outcomes.get(timeout=max(end - time.monotonic(), 0))
        except queue.Empty:
            break
        del running[name]
        if error:
            failed[name] = _reason(error)
    return failed | running


def _reason(error: Exception) -> str:
    """One line. A defect of one check must not hide from the operator what the other checks found."""
    text = " ".join(str(error).split())
    return text if isinstance(error, _EXPECTED) else f"a defect of mdmw: {type(error).__name__}: {text}"
