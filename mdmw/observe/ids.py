"""Ids for logs and traces: unique, cheap, and no secret.

Not of the kernel's random bytes: to ask for them lets another thread have the interpreter, which with a
hundred threads costs a fifth of the requests/s. The generator is seeded by the first id of each process.
"""

import os
import random
from uuid import uuid4

_PROCESS = f"req-{uuid4()}"[:-12]


def _seeded(number: int) -> int:
    global _bits
    _bits = random.Random(os.urandom(32)).getrandbits  # noqa: S311 - no secret
    return _bits(number)


_bits = _seeded


def _forget() -> None:
    """In a forked child: the parent's would go on with the same numbers."""
    global _bits
    _bits = _seeded


os.register_at_fork(after_in_child=_forget)


def new_request_id() -> str:
    """As all of OpenStack spells it: `req-` and a UUID. Only its last 48 bits differ within a server."""
    return f"{_PROCESS}{_bits(48):012x}"


def new_trace_id() -> str:
    """32 hex digits."""
    return f"{_bits(128):032x}"


def new_span_id() -> str:
    """16 hex digits."""
    return f"{_bits(64):016x}"
