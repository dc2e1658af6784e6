"""Lists in parts: `limit` at most, from behind `marker`."""

from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlencode

from mdmw.admin.call import Call

Entry = TypeVar("Entry")


def link(call: Call, found: Sequence[Entry], limit: int, marker: Callable[[Entry], str]) -> str | None:
    """Where the next part is, if more was `found` than `limit`; `marker` names an entry."""
    if len(found) <= limit:
        return None
    return f"{call.target}?{urlencode({**call.query, 'marker': marker(found[limit - 1])})}"
