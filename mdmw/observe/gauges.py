"""Numbers of this process that are looked at rather than counted."""

import threading
import weakref
from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

from mdmw.observe.series import CERTIFICATE, SECRET, SLOTS, SLOTS_IN_USE, WAITING, Series

#: A series and the values of its labels.
Name = tuple[Series, tuple[str, ...]]


class Occupied(Protocol):
    """Slots of an upstream, and those who wait for one."""

    upstream: str
    size: int

    @property
    def in_use(self) -> int:
        """Slots that are taken."""

    @property
    def waiting(self) -> int:
        """How many wait."""


_lock = threading.Lock()
_slots: "weakref.WeakSet[Occupied]" = weakref.WeakSet()
_told: dict[Name, float] = {}


def watch(slots: Occupied) -> None:
    """Have `slots` in the numbers as long as they exist."""
    with _lock:
        _slots.add(slots)


def certificate_expires(name: str, at: float) -> None:
    """A certificate was loaded that is good until `at` (Unix time)."""
    _told[CERTIFICATE, (name,)] = at


def secret_written(name: str, at: float) -> None:
    """A secret was loaded from a file that was written at `at` (Unix time)."""
    _told[SECRET, (name,)] = at


def read() -> Mapping[Name, float]:
    """The numbers as they are now."""
    with _lock:
        watched = list(_slots)
    numbers: defaultdict[Name, float] = defaultdict(float, _told)
    for slots in watched:
        label = (slots.upstream,)
        numbers[SLOTS, label] += slots.size
        numbers[SLOTS_IN_USE, label] += slots.in_use
        numbers[WAITING, label] += slots.waiting
    return numbers
