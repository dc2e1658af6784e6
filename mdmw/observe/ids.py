"""Ids for logs and traces: unique, cheap, and no secret.

Not of the kernel's random bytes: to ask for them lets another thread have the interpreter, which with a
hundred threads costs a fifth of the requests/s. The first id of each process begins anew.
"""

import os
import random
from collections.abc import Iterator
from itertools import chain, repeat
from uuid import uuid4

_FIRST, _END = 10**11, 10**12  # twelve decimal digits, which are hexadecimal ones too


def begin() -> tuple[str, int, int, int]:
    """For the request ids of a process: how they begin, the first number, and between which they go round."""
    return f"req-{uuid4()}"[:-12], _seeded().randrange(_FIRST, _END), _FIRST, _END


def _begin() -> int:
    global _prefix, _numbers
    _prefix, number, first, end = begin()
    _numbers = chain(range(number, end), chain.from_iterable(repeat(range(first, end))))
    return next(_numbers)


def _seeded() -> random.Random:
    return random.Random(os.urandom(32))  # noqa: S311 - ids are no secrets, they only must differ


def _seed(number: int) -> int:
    global _bits
    _bits = _seeded().getrandbits
    return _bits(number)


def _forget() -> None:
    """In a forked child: the parent's would go on with the same numbers."""
    global _numbers, _bits
    _numbers = iter(())
    _bits = _seed


_prefix = ""
_numbers: Iterator[int] = iter(())
_bits = _seed
os.register_at_fork(after_in_child=_forget)


def new_request_id() -> str:
    """As all of OpenStack spells it: `req-` and a UUID. A process counts in its last twelve digits."""
    number = next(_numbers, 0) or _begin()
    return _prefix + str(number)


def new_trace_id() -> str:
    """32 hex digits."""
    return f"{_bits(128):032x}"


def new_span_id() -> str:
    """16 hex digits."""
    return f"{_bits(64):016x}"
