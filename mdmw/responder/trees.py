"""The pages of one instance, by path: the tree of OpenStack and the tree of EC2 (spec 7.2, 7.3)."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import date

from mdmw.inventory.values import Guest, Network
from mdmw.responder import documents
from mdmw.responder.documents import BYTES, JSON, TEXT, Page, Pages, text_lines


def listings(leaves: Iterable[str], labels: Mapping[str, str]) -> dict[str, list[str]]:
    """The names in each directory above these paths, in bytewise order. "" is the top directory.

    A directory is listed as its name and a `/`, or as its label if `labels` has one.
    """
    entries: dict[str, dict[str, str]] = {"": {}}
    for leaf in leaves:
        parent, _, name = leaf.rpartition("/")
        entries.setdefault(parent, {})[name] = name
        while parent:
            directory = parent
            parent, _, name = directory.rpartition("/")
            entries.setdefault(parent, {})[name] = labels.get(directory, f"{name}/")
    return {
        directory: [names[name] for name in sorted(names, key=str.encode)]
        for directory, names in entries.items()
    }


#: Versions of OpenStack's tree, oldest first. Each version is a release that added something.
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

# The files in the order of a listing, each with the first version that lists the file.
_LISTED = (
    ("meta_data.json", "2012-08-10"),
    ("user_data", "2012-08-10"),
    (PASSWORD, "2013-04-04"),
    ("vendor_data.json", "2013-10-17"),
    ("network_data.json", "2015-10-15"),
    ("vendor_data2.json", "2016-10-06"),
)
_SINCE = dict(_LISTED)


def openstack_listing(today: date) -> tuple[str, ...]:
    """The versions that are listed: those that are not in the future. Later versions are served too.

    The first version is always listed, for hosts whose clock starts in 1970.
    """
    return VERSIONS[:1] + tuple(version for version in VERSIONS[1:] if version <= today.isoformat())


def has_password(version: str) -> bool:
    """Whether `version` has a password; False for an unknown version and for `latest`."""
    return version in VERSIONS and version >= _SINCE[PASSWORD]


def openstack_pages(
    guest: Guest, version: str, hostname: str, networks: Mapping[str, Network], network_data_type: str
) -> Pages:
    """The pages below one version, without the password. "" is the listing. Empty for an unknown version."""
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
    return served | {"": text_lines(names)}


def openstack_contents(guest: Guest) -> Pages:
    """The pages at the content paths of meta_data.json, by number."""
    return {number: Page(content, TEXT) for number, content in documents.contents(guest).items()}


def _json(value: object) -> Page:
    return Page(json.dumps(value).encode(), JSON)


#: Versions of EC2's tree, oldest first. `latest` has every key.
EC2_TREE_VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "latest",
)

_ORDER = {version: position for position, version in enumerate(EC2_TREE_VERSIONS)}

# The first version with a key. Keys that are not in this table are in every version.
_EC2_TREE_SINCE = {
    "local-hostname": "2007-01-19",
    "public-hostname": "2007-01-19",
    "public-ipv4": "2007-01-19",
    "instance-type": "2007-08-29",
    "block-device-mapping": "2007-12-15",
    "kernel-id": "2007-12-15",
    "ramdisk-id": "2007-12-15",
    "placement": "2008-02-01",
    "instance-action": "2008-09-01",
}


def ec2_pages(guest: Guest, version: str, hostname: str, local_ipv4: str) -> Pages:
    """The pages below one version, directories included. Empty for an unknown version."""
    if version not in _ORDER:
        return {}
    found = {
        f"meta-data/{key}": Page(value.encode())
        for key, value in _meta_data(guest, hostname, local_ipv4)
        if _ORDER[_EC2_TREE_SINCE.get(key.partition("/")[0], EC2_TREE_VERSIONS[0])] <= _ORDER[version]
    }
    if guest.user_data is not None:
        found["user-data"] = Page(guest.user_data, TEXT)
    labels = {f"meta-data/public-keys/{i}": f"{i}={key.name}" for i, key in enumerate(guest.keys)}
    return found | {path: text_lines(names) for path, names in listings(found, labels).items()}


def _meta_data(guest: Guest, hostname: str, local_ipv4: str) -> Iterator[tuple[str, str]]:
    yield "ami-id", guest.ami_id
    yield "ami-launch-index", str(guest.launch_index)
    yield "ami-manifest-path", "FIXME"
    yield "instance-id", guest.ec2_id
    yield "hostname", hostname
    yield "local-ipv4", local_ipv4
    yield "reservation-id", guest.reservation_id
    yield "security-groups", "\n".join(guest.security_groups)
    for i, key in enumerate(guest.keys):
        yield f"public-keys/{i}/openssh-key", key.data
    yield "local-hostname", hostname
    yield "public-hostname", hostname
    yield "public-ipv4", guest.public_ipv4
    yield "instance-type", guest.flavor
    for name, device in guest.block_device_mapping.items():
        yield f"block-device-mapping/{name}", device
    if guest.kernel_id:
        yield "kernel-id", guest.kernel_id
    if guest.ramdisk_id:
        yield "ramdisk-id", guest.ramdisk_id
    yield "placement/availability-zone", guest.availability_zone
    yield "instance-action", "none"
