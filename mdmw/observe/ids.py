"""Ids for logs and traces: unique, cheap, and no secret.

Not of the kernel's random bytes: to ask for them lets another thread have the interpreter, which with a
hundred threads costs a fifth of the requests/s. The generator is seeded anew in each process, by its id
since uWSGI may fork without telling Python.
"""

import os
import random
from uuid import uuid4

_PROCESS = f"req-{uuid4()}"[:-12]


class _Generator:
    """Random bits, others in each process."""

    def __init__(self) -> None:
        self._process = 0
        self._random = random.Random()  # noqa: S311 - no secret

    def bits(self, number: int) -> int:
        if os.getpid() != self._process:
            self._random = random.Random(os.urandom(32))  # noqa: S311 - no secret
            self._process = os.getpid()
        return self._random.getrandbits(number)


_bits = _Generator().bits


def new_request_id() -> str:
    """As all of OpenStack spells it: `req-` and a UUID. Only its last 48 bits differ within a server."""
    return f"{_PROCESS}{_bits(48):012x}"


def new_trace_id() -> str:
    """32 hex digits."""
    return f"{_bits(128):032x}"


def new_span_id() -> str:
    """16 hex digits."""
    return f"{_bits(64):016x}"
