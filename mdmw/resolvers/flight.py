"""Asking once for all who want to know the same thing (R-14)."""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mdmw.errors import Unavailable

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

#: Seconds that somebody waits for what another has asked: a guest's own proxy gives up after 30.
PATIENCE = 10.0


class Mark:
    """Tells all who hold it that what it belongs to was replaced by something newer."""

    __slots__ = ("replaced",)

    def __init__(self) -> None:
        self.replaced = False


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """What a back end said, and when it was asked for that: the start of the asking, monotonic seconds."""

    value: T
    as_of: float
    mark: Mark = field(default_factory=Mark, compare=False)


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.landed = threading.Event()
        self.fact: Fact[T] | None = None
        self.failure: Unavailable | None = None


class Flights(Generic[K, T]):
    """At most one asking under way for each key; whoever comes later waits for it."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._flights: dict[K, _Flight[T]] = {}

    def share(self, key: K, since: float, ask: Callable[[], Fact[T]]) -> Fact[T]:
        """A fact about `key` with `as_of >= since`: of a flight under way, or by `ask`, which must give one.

        Raises what `ask` raises. Those who wait for another share its `Unavailable`, and get
        one of their own when it takes too long; after any other error each asks for itself.
        """
        deadline = time.monotonic() + self._patience
        while True:
            with self._lock:
                flight = self._flights.get(key)
                if flight is None:
                    mine = self._flights[key] = _Flight()
                    break
            if not flight.landed.wait(max(0.0, deadline - time.monotonic())):
                raise Unavailable("the same look-up of somebody else takes too long")
            if flight.failure is not None:
                raise Unavailable(str(flight.failure), flight.failure.retry_after)
            if flight.fact is not None and flight.fact.as_of >= since:
                return flight.fact
        return self._fly(key, mine, ask)

    def _fly(self, key: K, flight: _Flight[T], ask: Callable[[], Fact[T]]) -> Fact[T]:
        try:
            flight.fact = ask()
        except Unavailable as error:
            flight.failure = error
            raise
        else:
            return flight.fact
        finally:
            with self._lock:
                del self._flights[key]
            flight.landed.set()
