"""The planner as the keeper sees it: a process that says what must be there, started again when it ends."""

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mdmw.node.channel import FROM_PLANNER, Channel, ChannelError, Message, Shape, pair
from mdmw.node.crew import Start
from mdmw.node.loop import Loop

LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds until another is started


class Plans(Protocol):
    """Who is told what a planner says."""

    def apply_to(self, places: Mapping[str, Any]) -> None:
        """Where plans are to be applied: the fields of `places`."""

    def offer(self, descriptor: int) -> None:
        """A new plan, in a file that is now the receiver's to close."""

    def confirm(self) -> None:
        """The newest plan is still right."""

    def doubt(self, why: str) -> None:
        """What there is cannot be read."""


class Child:
    """A process with a channel; `ended` is called when it is gone, unless `end` was."""

    def __init__(
        self,
        loop: Loop,
        start: Start,
        accepts: Mapping[str, Shape],
        hear: Callable[["Child", Message], None],
        ended: Callable[["Child", str], None],
    ) -> None:
        ours, its = pair()
        with its:
            self._pidfd = os.pidfd_open(start(its))
        ours.setblocking(False)
        self._loop = loop
        self._channel = Channel(ours, accepts)
        self._on_message = hear
        self._on_end = ended
        loop.watch(ours.fileno(), self._hear)

    def tell(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Say something short. That nobody listens any more is heard later."""
        with contextlib.suppress(OSError):
            self._channel.send(kind, descriptors, **fields)

    def end(self) -> None:
        """Hear it no more, and let it go if it has not; safe to call twice."""
        if self._channel.sock.fileno() < 0:
            return
        self._loop.forget(self._channel.sock.fileno())
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
        os.close(self._pidfd)

    def _hear(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        except (ChannelError, OSError) as error:
            self.end()
            self._on_end(self, str(error))
            return
        self._on_message(self, message)


class Planner:
    """The planner, from one process to the next.

    `ready` is called once, when the first process has read its options; `refused`, with one line, when it
    cannot. A later one that cannot is told of in the log, and the one before goes on.
    """

    def __init__(
        self,
        loop: Loop,
        start: Start,
        plans: Plans,
        ready: Callable[[], None],
        refused: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._start = start
        self._plans = plans
        self._on_ready = ready
        self._on_refused = refused
        self._current: Child | None = None
        self._next: Child | None = None
        self._is_new = True
        self._is_ending = False
        self._pause = _FIRST_PAUSE

    def renew(self) -> None:
        """Start one with the options as they are now; the one before goes when it has read them."""
        if self._is_ending:
            return
        if self._next:
            self._next.end()
        self._next = Child(self._loop, self._start, FROM_PLANNER, self._hear, self._ended)

    def end(self) -> None:
        """Plan no more."""
        self._is_ending = True
        for child in (self._current, self._next):
            if child:
                child.end()

    def _hear(self, child: Child, message: Message) -> None:
        # Where plans are applied is believed only before a process has given up its power and met anybody.
        match message.kind, child is self._next:
            case "places", True:
                self._takes_its_place(child, message.fields)
            case "refused", True:
                child.end()
                self._ended(child, str(message.fields["why"]))
            case "plan", False:
                self._pause = _FIRST_PAUSE
                self._plans.offer(message.descriptors[0])
            case "same", False:
                self._pause = _FIRST_PAUSE
                self._plans.confirm()
            case "trouble", False:
                self._plans.doubt(str(message.fields["why"]))
            case _:
                for descriptor in message.descriptors:
                    os.close(descriptor)
                child.end()
                self._ended(child, f"it said {message.kind!r} at the wrong time")

    def _takes_its_place(self, child: Child, places: Mapping[str, Any]) -> None:
        if self._current:
            self._current.end()
        self._current, self._next = child, None
        self._plans.apply_to(places)
        if self._is_new:
            self._is_new = False
            self._on_ready()

    def _ended(self, child: Child, why: str) -> None:
        if child is self._next:
            self._next = None
        else:
            self._current = None
        if self._is_new:
            self._on_refused(why)
        elif self._current:
            LOG.error("the planner goes on with the options it has: %s", why)
        else:
            LOG.error("there is no planner (%s); another is started, the last plan stays in force", why)
            self._loop.after(self._pause, self._start_again)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _start_again(self) -> None:
        if not (self._current or self._next):
            self.renew()
