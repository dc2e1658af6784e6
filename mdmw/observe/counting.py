"""Counting requests that are over: for metrics, and for each network and router."""

from bisect import bisect_left
from collections.abc import Callable

from mdmw.observe.recording import Journal

CLASSES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")  # 0xx: no answer could be made
_UNUSUAL_STATUS = 600
_MOST_EVENTFUL = 20_000  # if nobody takes them
_LONGEST_TARGET = 500


class Counters:
    """Of some requests: how many, with which status, and how long they took. They only grow."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.classes = [0] * len(CLASSES)
        self.durations = [0] * (len(bounds) + 1)  # seconds: up to each bound but not the one before, and more
        self.seconds = self.slowest = 0.0
        self.first = self.last = 0.0  # when the first and the last of them came, since 1970

    def add(self, status: int, seconds: float, time: float) -> None:
        """One more."""
        if not any(self.classes):
            self.first = time
        self.last = time
        self.classes[status // 100 if 0 <= status < _UNUSUAL_STATUS else 0] += 1
        self.durations[bisect_left(self._bounds, seconds)] += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)


class ForAll:
    """Counts all requests together, and what each stage of them took."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.forget()

    def forget(self) -> None:
        """As `Observer`."""
        self.requests = Counters(self._bounds)
        self.stages: dict[str, Counters] = {}
        self.caches: dict[str, int] = {}  # requests for which the cache had this
        self._eventful: list[Journal] = []

    def take_eventful(self) -> list[Journal]:
        """Those that ended in an error or have notes, since they were last taken."""
        self._eventful, eventful = [], self._eventful
        return eventful

    def over(self, journal: Journal) -> None:
        """As `Observer`."""
        self.requests.add(journal.status, journal.seconds, journal.time)
        for stage, seconds in journal.stages.items():
            if (counters := self.stages.get(stage)) is None:
                counters = self.stages[stage] = Counters(self._bounds)
            counters.add(journal.status, seconds, journal.time)
        if journal.cache:
            self.caches[journal.cache] = self.caches.get(journal.cache, 0) + 1
        if (journal.error or journal.notes) and len(self._eventful) < _MOST_EVENTFUL:
            self._eventful.append(journal)


class ForEach:
    """Counts the requests of each scope, and hands each to `keep`, of a long target only the beginning.

    When there are `most` scopes of one kind, and another one comes, `make_room` is called with them.
    """

    def __init__(
        self,
        bounds: tuple[float, ...],
        most: int,
        make_room: Callable[[dict[str, Counters]], None],
        keep: Callable[[Journal], None],
    ) -> None:
        self._bounds = bounds
        self._most = most
        self._make_room = make_room
        self._keep = keep
        self.forget()

    def forget(self) -> None:
        """As `Observer`."""
        #: By kind and id; "" and "" where nobody was identified.
        self.scopes: dict[str, dict[str, Counters]] = {}

    def over(self, journal: Journal) -> None:
        """As `Observer`."""
        scope = journal.source.scope if journal.source else None
        kind, id_ = (scope.kind, scope.id) if scope else ("", "")
        of_kind = self.scopes.setdefault(kind, {})
        if (counters := of_kind.get(id_)) is None:
            if len(of_kind) >= self._most:
                self._make_room(of_kind)
            counters = of_kind[id_] = Counters(self._bounds)
        counters.add(journal.status, journal.seconds, journal.time)
        if len(journal.target) > _LONGEST_TARGET:
            journal.target = journal.target[:_LONGEST_TARGET]
        self._keep(journal)

