"""Several things at once, none of them waited for longer than there is time."""

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping

from mdmw.errors import MdmwError

#: What a task may raise: that it could not be done is then all there is to say.
_EXPECTED = (MdmwError, OSError, subprocess.SubprocessError)


def together(tasks: Mapping[str, Callable[[], None]], end: float, most: int = 16) -> dict[str, str]:
    """Do the tasks by `end` (of `time.monotonic`), up to `most` at a time; those not done, and why.

    What takes longer goes on in threads that nobody waits for; the process may end meanwhile.
    """
    waiting = queue.SimpleQueue[str]()
    done = queue.SimpleQueue[tuple[str, Exception | None]]()
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
                done.put((name, error))
            else:
                done.put((name, None))

    for _ in range(min(most, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    return _outcome(dict.fromkeys(tasks, "no time was left"), done, end)


def _outcome(
    left: dict[str, str], done: "queue.SimpleQueue[tuple[str, Exception | None]]", end: float
) -> dict[str, str]:
    problems = {}
    while left:
        try:
            name, error = done.get(timeout=max(end - time.monotonic(), 0))
        except queue.Empty:
            break
        del left[name]
        if error:
            why = " ".join(str(error).split())
            # A defect of one part must not keep from an operator what the others found.
            is_expected = isinstance(error, _EXPECTED)
            problems[name] = why if is_expected else f"a defect of mdmw: {type(error).__name__}: {why}"
    return problems | left
