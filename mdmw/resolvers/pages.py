"""Neutron's lists, which come in pages (R-10)."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mdmw.errors import Unavailable

Query = list[tuple[str, str]]

PAGE = 1000  # items
MOST_PAGES = 200


def items(kind: str, query: Query, fields: Sequence[str], page: Callable[[Query], bytes]) -> Iterator[Any]:
    """All of a kind (`ports`) that a query is for; `page` fetches the body of one page.

    Only the marker of a next link counts, so that it leads nowhere else. Raises `Unavailable` for what is
    not such a list.
    """
    query = [*query, *(("fields", name) for name in fields), ("limit", str(PAGE))]
    markers: list[str] = []
    while len(markers) < MOST_PAGES:
        found = _parsed(kind, page([*query, *(("marker", marker) for marker in markers[-1:])]))
        yield from found[kind]
        marker = _next_marker(kind, found)
        if marker is None:
            return
        if marker in markers:
            break
        markers.append(marker)
    raise Unavailable(f"Neutron: a list of {kind} that has no end ({len(markers)} pages)")


def _parsed(kind: str, body: bytes) -> dict[str, Any]:
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict) or not isinstance(page.get(kind), list):
        raise Unavailable(f"Neutron: an answer that is not a list of {kind}")
    return page


def _next_marker(kind: str, page: Mapping[str, Any]) -> str | None:
    """Where the next page begins; None after the last one."""
    try:
        links = [link["href"] for link in page.get(f"{kind}_links") or () if link["rel"] == "next"]
        return parse_qs(urlsplit(links[0]).query)["marker"][-1] if links else None
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Unavailable("Neutron: a link to a next page that leads nowhere") from None
