"""Where a token is kept, so that a group of processes authenticates once (R-16)."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from mdmw.resolvers.group import group_directory, lock

LOG = logging.getLogger(__name__)


class TokenStore(Protocol):
    """Keeps the state of an authentication as text. A process uses it from one thread at a time."""

    def exclusive(self, timeout: float) -> AbstractContextManager[None]:
        """Inside, nobody else of the group authenticates; `Unavailable` after `timeout` seconds."""

    def load(self) -> str | None:
        """What the group saved last; only inside `exclusive`."""

    def save(self, state: str) -> None:
        """Keep `state` for the group; only inside `exclusive`."""


class Alone:
    """The store of a process that shares its token with nobody."""

    def exclusive(self, timeout: float) -> AbstractContextManager[None]:  # noqa: ARG002 - there is nobody
        return nullcontext()

    def load(self) -> str | None:
        return None

    def save(self, state: str) -> None:
        """Nothing: who asks keeps it."""


class GroupFile:
    """One file, 0600, that is the lock and the token at once.

    When it cannot be opened or written, that is logged and the process goes on alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    @contextmanager
    def exclusive(self, timeout: float) -> Iterator[None]:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            LOG.warning("the token is not shared with other processes: %s", error)
            yield
            return
        try:
            lock(self._fd, timeout, "another process did not finish authenticating in time")
            yield
        finally:
            os.close(self._fd)
            self._fd = -1

    def load(self) -> str | None:
        if self._fd < 0:
            return None
        with open(self._fd, "rb", closefd=False) as file:
            return file.read().decode("utf-8", "replace") or None

    def save(self, state: str) -> None:
        if self._fd < 0:
            return
        try:
            os.truncate(self._fd, 0)
            os.pwrite(self._fd, state.encode(), 0)
        except OSError as error:
            LOG.warning("the token is not shared with other processes: %s", error)


def store_for(identity: str | None, place: str) -> TokenStore:
    """The store for credentials of this identity (`get_cache_id` of a plugin; None: not shareable).

    Raises `ConfigError` when the directory of the group is there but is not private.
    """
    directory = group_directory(place)
    if directory is None or identity is None:
        return Alone()
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return GroupFile(directory / f"token-{name}")
