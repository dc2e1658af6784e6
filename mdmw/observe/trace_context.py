"""The W3C's `traceparent`: which trace a request belongs to, and which span it comes from.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from dataclasses import dataclass

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_INVALID_VERSION = "ff"
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One span of one trace; ids are lower-case hex, of 32 and 16 digits."""

    trace_id: str
    span_id: str
    is_sampled: bool

    def __str__(self) -> str:
        """As a header of version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"


def parse(text: str) -> TraceContext | None:
    """The context in a header, None for what is not one; a later version may say more at its end."""
    match = _HEADER.fullmatch(text)
    if match is None or match[1] == _INVALID_VERSION or (match[1] == "00" and match[5] is not None):
        return None
    if not int(match[2], 16) or not int(match[3], 16):
        return None
    return TraceContext(match[2], match[3], bool(int(match[4], 16) & _SAMPLED))
