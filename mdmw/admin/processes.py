"""The serving processes of this machine, and what they say when they are asked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mdmw.errors import Unavailable
from mdmw.observe import processes
from mdmw.observe.processes import Reply


class Processes:
    """Those that have a socket in `directory`."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def ask(
        self, question: str, timeout: float = 2.0, pid: int | None = None, **arguments: Any
    ) -> list[Reply]:
        """As `mdmw.observe.processes.ask`; raises `Unavailable` when they cannot be found."""
        try:
            return processes.ask(self._directory, question, timeout, pid=pid, **arguments)
        except OSError as error:
            raise Unavailable(f"{self._directory} cannot be read: {error.strerror}") from None


def answered(replies: Iterable[Reply]) -> list[Reply]:
    """Those with an answer."""
    return [reply for reply in replies if not reply.problem]


def silent(replies: Iterable[Reply]) -> list[dict[str, Any]]:
    """Those that were not heard: what is told is told without them."""
    return [
        {"pipeline": reply.pipeline, "pid": reply.pid, "problem": reply.problem}
        for reply in replies
        if not reply.is_heard
    ]
