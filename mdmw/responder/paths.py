"""Paths: normalised as Nova does (E-1), then matched to the resource behind them (E-3)."""

import posixpath
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from routes import Mapper

#: Resources, by the name of their route.
EC2_VERSIONS = "ec2-versions"
EC2 = "ec2"
OPENSTACK_VERSIONS = "openstack-versions"
OPENSTACK = "openstack"
CONTENT = "content"
PASSWORD = "password"  # noqa: S105 - the name of a resource
TOKEN = "token"  # noqa: S105 - as above

_TREES = ("ec2", "openstack")


@dataclass(frozen=True, slots=True)
class Place:
    """What a path names: a resource, and where they apply the version and the rest of the path."""

    resource: str
    version: str = ""
    name: str = ""


def normalise(target: str) -> str:
    """The path of a request target, decoded once, without `//`, `.`, `..` and trailing `/` (E-1)."""
    path = unquote(target.partition("?")[0], errors="surrogateescape")
    return posixpath.normpath("/" + path.lstrip("/"))


@lru_cache(maxsize=512)
def find(path: str) -> Place | None:
    """The place that a normalised path names, or None; whether it exists is the guest's affair."""
    if "\n" in path:  # an expression of Routes ends in `$`, which also fits before a final newline
        return None
    if path.split("/", 2)[1] not in _TREES:
        path = f"/ec2{path}" if path != "/" else "/ec2"
    match = _MAPPER.match(path)
    return Place(**match) if match else None


def _connect() -> Mapper:
    mapper = Mapper(explicit=True)
    for resource, route in (
        (EC2_VERSIONS, "/ec2"),
        (TOKEN, "/ec2/latest/api/token"),
        (EC2, "/ec2/{version}"),
        (EC2, "/ec2/{version}/{name:.+}"),
        (OPENSTACK_VERSIONS, "/openstack"),
        (CONTENT, "/openstack/content/{name}"),
        (PASSWORD, "/openstack/{version}/password"),
        (OPENSTACK, "/openstack/{version}"),
        (OPENSTACK, "/openstack/{version}/{name}"),
    ):
        mapper.connect(None, route, resource=resource)
    mapper.create_regs()
    return mapper


_MAPPER = _connect()
