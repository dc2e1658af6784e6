"""Of which HA routers this node has the primary, by the files that the L3 agent keeps (spec 4.8)."""

import os
import time
from pathlib import Path

from mdmw.errors import Unavailable

_PRIMARY = ("primary", "master")  # what the agent's monitor of keepalived writes
_LONGEST = 16  # characters of a state


class HaStates:
    """`directory` has one for each router, with a file `state` in it.

    A router counts when it has been primary for `settle` seconds, so that nothing is done for one that flaps.
    """

    def __init__(self, directory: Path, settle: float) -> None:
        self._directory = directory
        self._settle = settle
        self._primaries: frozenset[str] = frozenset()  # at the last look

    def look(self) -> frozenset[str] | None:
        """The routers that count, by id; None when that cannot be known."""
        try:
            self._primaries = frozenset(
                path.name for path in self._directory.iterdir() if self.is_primary(path.name)
            )
        except FileNotFoundError:
            self._primaries = frozenset()
        except (OSError, Unavailable):
            return None
        return self._primaries

    def is_primary(self, router_id: str) -> bool:
        """Whether a router counts; raises `Unavailable`."""
        try:
            with (self._directory / router_id / "state").open() as file:
                is_primary = file.read(_LONGEST).strip() in _PRIMARY
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise Unavailable(f"the state of an HA router cannot be read: {error}") from None
        # The agent writes the same state again when it starts: who counted goes on.
        return is_primary and (router_id in self._primaries or not 0 <= age < self._settle)
