"""The EC2 tree of one guest (spec 7.2, 7.3)."""

from collections.abc import Iterator

from mdmw.inventory.values import Guest
from mdmw.responder.listings import listings
from mdmw.responder.pages import TEXT, Page, Pages, lines

#: Oldest first; `latest` knows all that any of them knows.
VERSIONS = (
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

_ORDER = {version: position for position, version in enumerate(VERSIONS)}

# The version that brought a key; what is not here was there from the start.
_SINCE = {
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


def pages(guest: Guest, version: str, hostname: str, local_ipv4: str) -> Pages:
    """Every path below one version, directories included; none for an unknown version."""
    if version not in _ORDER:
        return {}
    found = {
        f"meta-data/{key}": Page(value.encode())
        for key, value in _meta_data(guest, hostname, local_ipv4)
        if _ORDER[_SINCE.get(key.partition("/")[0], VERSIONS[0])] <= _ORDER[version]
    }
    if guest.user_data is not None:
        found["user-data"] = Page(guest.user_data, TEXT)
    labels = {f"meta-data/public-keys/{i}": f"{i}={key.name}" for i, key in enumerate(guest.keys)}
    return found | {path: lines(names) for path, names in listings(found, labels).items()}


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
