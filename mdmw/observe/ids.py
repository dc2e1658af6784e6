"""Ids for logs and traces: unique, cheap, and no secret.

Of the kernel's random bytes: a generator of our own would have to be seeded anew in each forked
process, and uWSGI forks without telling Python.
"""

from os import urandom
from uuid import uuid4

_PROCESS = f"req-{uuid4()}"[:-12]
_LAST_BYTES, _TRACE_BYTES, _SPAN_BYTES = 6, 16, 8


def new_request_id() -> str:
    """As all of OpenStack spells it: `req-` and a UUID. Only its last 48 bits differ within a server."""
    return _PROCESS + urandom(_LAST_BYTES).hex()


def new_trace_id() -> str:
    """32 hex digits."""
    return urandom(_TRACE_BYTES).hex()


def new_span_id() -> str:
    """16 hex digits."""
    return urandom(_SPAN_BYTES).hex()
