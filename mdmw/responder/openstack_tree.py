"""The OpenStack tree of one guest (spec 7.2)."""

import json
from collections.abc import Mapping
from datetime import date

from mdmw.inventory.values import Guest, Network
from mdmw.responder import documents
from mdmw.responder.pages import BYTES, JSON, TEXT, Page, Pages, lines

#: Oldest first; each is the release that brought something.
VERSIONS = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
    "2025-04-04",
)

LATEST = "latest"
PASSWORD = "password"  # noqa: S105 - the name of a file

# The files of a version in the order of its listing, and the version that listed each first.
_LISTED = (
    ("meta_data.json", "2012-08-10"),
    ("user_data", "2012-08-10"),
    (PASSWORD, "2013-04-04"),
    ("vendor_data.json", "2013-10-17"),
    ("network_data.json", "2015-10-15"),
    ("vendor_data2.json", "2016-10-06"),
)
_SINCE = dict(_LISTED)


def listed(today: date) -> tuple[str, ...]:
    """The versions that are not in the future; those are hidden, but served.

    The first is there always, for hosts whose clock starts in 1970.
    """
    return VERSIONS[:1] + tuple(version for version in VERSIONS[1:] if version <= today.isoformat())


def has_password(version: str) -> bool:
    """Whether this version, known and not `latest`, has a password."""
    return version in VERSIONS and version >= _SINCE[PASSWORD]


def pages(
    guest: Guest, version: str, hostname: str, networks: Mapping[str, Network], network_data_type: str
) -> Pages:
    """Every path below one version except the password, "" being the listing; none if unknown."""
    if version not in VERSIONS:
        return {}
    found = {
        "meta_data.json": documents.meta_data_page(guest, version, hostname),
        "vendor_data.json": _json(guest.vendor_data),
        "network_data.json": Page(documents.network_data(guest, networks), network_data_type),
        "vendor_data2.json": _json({"static": guest.vendor_data, **guest.vendor_data2}),
    }
    if guest.user_data is not None:
        found["user_data"] = Page(guest.user_data, BYTES)
    there = {*found, PASSWORD}
    names = [name for name, since in _LISTED if since <= version and name in there]
    served = {name: page for name, page in found.items() if name in names or name == "network_data.json"}
    return served | {"": lines(names)}


def contents(guest: Guest) -> Pages:
    """The files behind the paths that meta_data.json names, by number."""
    return {number: Page(content, TEXT) for number, content in documents.contents(guest).items()}


def _json(value: object) -> Page:
    return Page(json.dumps(value).encode(), JSON)
