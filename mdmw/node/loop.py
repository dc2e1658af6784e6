"""The event loop of the keeper: descriptors, timers and signals, one callback at a time in one thread."""

import heapq
import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping

Callback = Callable[[], None]


class Loop:
    """Calls callbacks until `stop` is called."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callback]] = []
        self._numbers = itertools.count()
        self._running = True

    def watch(self, descriptor: int, readable: Callback) -> None:
        """Call `readable` whenever `descriptor` has data, or its other end has closed; raises OSError."""
        self._selector.register(descriptor, selectors.EVENT_READ, (readable, None))

    def wait_to_write(self, descriptor: int, writable: Callback | None) -> None:
        """Also call `writable` when a watched `descriptor` has room for data; None ends this."""
        key = self._selector.get_key(descriptor)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        self._selector.modify(descriptor, events, (key.data[0], writable))

    def forget(self, descriptor: int) -> None:
        """Watch `descriptor` no more. Must be called before a watched descriptor is closed."""
        self._selector.unregister(descriptor)

    def after(self, delay: float, callback: Callback) -> None:
        """Call `callback` once, `delay` seconds from now."""
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._numbers), callback))

    def on_signals(self, callbacks: Mapping[signal.Signals, Callback]) -> None:
        """From now on, call the callback of a signal from the loop when the signal arrives."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer)
        for number in callbacks:
            signal.signal(number, lambda *_: None)

        def arrived() -> None:
            for number in os.read(reader, 64):
                if number in callbacks:
                    callbacks[signal.Signals(number)]()

        self.watch(reader, arrived)

    def run(self) -> None:
        """Run callbacks until `stop` is called."""
        while self._running:
            ready = self._selector.select(self._until_next())
            for key, events in ready:
                # One callback may close the descriptor that the next callback is about.
                if self._selector.get_map().get(key.fd) is not key:
                    continue
                readable, writable = key.data
                if events & selectors.EVENT_WRITE and writable:
                    writable()
                if events & selectors.EVENT_READ and self._selector.get_map().get(key.fd) is key:
                    readable()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def stop(self) -> None:
        """End `run` after the callback that is running now."""
        self._running = False

    def _until_next(self) -> float | None:
        """Seconds until the next timer; None without timers."""
        return max(self._timers[0][0] - time.monotonic(), 0) if self._timers else None
