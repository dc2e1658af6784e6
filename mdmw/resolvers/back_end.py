"""How a back end is asked: one question at a time about one thing, and none for a moment after a failure."""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from mdmw.errors import NotIdentified, Unavailable
from mdmw.observe.journal import RESOLVER_CALL, RESOLVER_FAILURE, Journal, note
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.contract import Prefetching, Resolver, Snapshot

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

#: Seconds that a request waits for the question of another request. The proxy of a guest gives up after 30.
PATIENCE = 10.0

#: Seconds without a question about a scope after one failed. A guest is told to come back after 1 second.
PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class NoInstance:
    """The answer that a source has no instance, with the reason; `NotIdentified` as a value."""

    reason: str


class ReplacedFlag:
    """Is set when the value that it belongs to was replaced by a newer one. Entries made from it end then."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False


@dataclass(frozen=True, slots=True)
class Dated(Generic[T]):
    """A value of a back end. `as_of` is when the question began, on the clock of the cache."""

    value: T
    as_of: float
    replaced: ReplacedFlag = field(default_factory=ReplacedFlag, compare=False)


class _Question(Generic[T]):
    def __init__(self) -> None:
        self.ended = threading.Event()
        self.answer: Dated[T] | None = None
        self.failure: Unavailable | None = None


class SharedQuestions(Generic[K, T]):
    """Questions of many threads, of which one for each key is asked at a time. Other threads wait for it.

    `patience` is the number of seconds that a thread waits.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._questions: dict[K, _Question[T]] = {}

    def share(self, key: K, since: float, ask: Callable[[], Dated[T]]) -> Dated[T]:
        """An answer about `key` with `as_of >= since`: of another thread, or of `ask()`.

        Raises what `ask` raises. Threads that wait get the same `Unavailable`; after any other error
        each of them asks for itself. Raises `Unavailable` when the wait is longer than `patience`.
        """
        deadline = time.monotonic() + self._patience
        while True:
            with self._lock:
                other = self._questions.get(key)
                if other is None:
                    mine = self._questions[key] = _Question()
                    break
            if not other.ended.wait(max(0.0, deadline - time.monotonic())):
                raise Unavailable("another request asks the same for too long")
            if other.failure is not None:
                raise Unavailable(str(other.failure), other.failure.retry_after)
            if other.answer is not None and other.answer.as_of >= since:
                return other.answer
        return self._ask(key, mine, ask)

    def _ask(self, key: K, question: _Question[T], ask: Callable[[], Dated[T]]) -> Dated[T]:
        try:
            question.answer = ask()
        except Unavailable as error:
            question.failure = error
            raise
        else:
            return question.answer
        finally:
            with self._lock:
                del self._questions[key]
            question.ended.set()


class BackEnd:
    """A resolver that is asked past every cache.

    `prefetches`: the resolver has snapshots. `partial`: it finds ports that are not in its snapshots.
    """

    def __init__(self, resolver: Resolver, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolver = resolver
        self._clock = clock
        self._failures: dict[Scope, tuple[float, Unavailable]] = {}
        self.prefetches = hasattr(resolver, "snapshot")
        self.partial: bool = getattr(resolver, "partial", False)

    def instance(self, source: Source, journal: Journal | None = None) -> Instance | NoInstance:
        """The instance behind `source`; raises `Unavailable` and `Contradiction`."""
        return self._ask(source.scope, lambda: self._resolver.resolve(source, fresh=True), journal)

    def snapshot(self, scope: Scope, journal: Journal | None = None) -> Snapshot | NoInstance | None:
        """All ports of `scope`; None when they are too many. Raises `Unavailable`."""
        return self._ask(scope, lambda: cast(Prefetching, self._resolver).snapshot(scope), journal)

    def _ask(self, scope: Scope, question: Callable[[], T], journal: Journal | None) -> T | NoInstance:
        now = self._clock()
        failed, failure = self._failures.get(scope, (now, None))
        if failure is not None and now - failed < PAUSE:
            raise Unavailable(f"{failure} (a moment ago)", failure.retry_after)
        note(journal, RESOLVER_CALL)
        try:
            return question()
        except NotIdentified as error:
            return NoInstance(str(error))
        except Unavailable as error:
            note(journal, RESOLVER_FAILURE)
            now = self._clock()
            recent = {s: f for s, f in self._failures.copy().items() if now - f[0] < PAUSE}
            self._failures = recent | {scope: (now, Unavailable(str(error), error.retry_after))}
            raise
