"""Ids for logs and traces: unique, cheap, and no secret."""

import os
from random import Random
from uuid import uuid4

# Of our own: whoever seeds the one of the module would make ids come twice.
_RANDOM = Random()  # noqa: S311 - who guesses an id knows nothing by it
os.register_at_fork(after_in_child=_RANDOM.seed)

_PROCESS = f"req-{uuid4()}"[:-12]
_LAST_BITS, _TRACE_BITS, _SPAN_BITS = 48, 128, 64


def new_request_id() -> str:
    """As all of OpenStack spells it: `req-` and a UUID. Only its last 48 bits differ within a process."""
    return f"{_PROCESS}{_RANDOM.getrandbits(_LAST_BITS):012x}"


def new_trace_id() -> str:
    """32 hex digits, never all zeros, which the W3C forbids."""
    return f"{_RANDOM.getrandbits(_TRACE_BITS) or 1:032x}"


def new_span_id() -> str:
    """16 hex digits, never all zeros, which the W3C forbids."""
    return f"{_RANDOM.getrandbits(_SPAN_BITS) or 1:016x}"
