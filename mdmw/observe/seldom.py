"""Log lines that would repeat with every request, said once a minute."""

import time
from collections.abc import Callable, Hashable

_INTERVAL = 60.0


class Seldom:
    """Says of each thing whether it is due again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[Hashable, float] = {}

    def due(self, thing: Hashable) -> bool:
        """True the first time, and then once a minute."""
        now = self._clock()
        said = self._said.get(thing)
        if said is not None and now - said < _INTERVAL:
            return False
        self._said = {key: at for key, at in self._said.copy().items() if now - at < _INTERVAL} | {thing: now}
        return True
