"""A directory as the place of a dogpile.cache region of bytes."""

import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dogpile.cache.api import NO_VALUE, CacheBackend


class Directory(CacheBackend):
    """A file for each key, replaced as a whole. Files that are older than `keep` seconds go.

    Arguments: `path` and `keep`. Raises OSError.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._path = Path(arguments["path"])
        self._keep = arguments["keep"]

    def get(self, key: str) -> Any:
        try:
            return (self._path / key).read_bytes()
        except FileNotFoundError:
            return NO_VALUE

    def set(self, key: str, value: Any) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix="mdmw-", dir=self._path)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(value)
        Path(temporary).replace(self._path / key)
        limit = time.time() - self._keep
        for old in self._path.glob("mdmw-*"):
            with suppress(FileNotFoundError):
                if old.stat().st_mtime < limit:
                    old.unlink()
