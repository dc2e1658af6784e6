"""responder: the metadata service itself, for clouds without Nova (spec 7).

Reads: `mdmw.instance`; `mdmw.source`, or else the peer address, as `local-ipv4` of an
instance without a fixed IPv4 address; the request target, the body of a POST, IMDSv2 headers.
Writes: nothing.
Answers: 200, 400, 401, 403, 404, 405, 409 for guests; 503 when the password store fails, or
when the inventory has changed and does not have the instance yet.
Place: the end of a pipeline. "/" is answered to every caller, as Nova does.
"""

import ipaddress
import logging
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

from oslo_config import cfg
from routes import Mapper

from mdmw.boundary.body import read_body
from mdmw.boundary.stage import App, Terminal
from mdmw.errors import BadRequest, BodyTooLarge, Conflict, MethodNotAllowed, NotFound, PipelineError
from mdmw.inventory import source
from mdmw.inventory.entries import MAX_PASSWORD
from mdmw.inventory.values import Guest, Inventory
from mdmw.options import load, refuse
from mdmw.records import INSTANCE, SOURCE, Environ, Instance, Source
from mdmw.reloading import Derived
from mdmw.responder import trees
from mdmw.responder.documents import JSON, TEXT, Page, Pages, text_lines
from mdmw.responder.passwords import PasswordFile, Passwords, PasswordsInMemory
from mdmw.responder.tokens import Tokens
from mdmw.signing import Signer, read_secrets, secret_options
from mdmw.wire import request_target

LOG = logging.getLogger(__name__)

IMDSV2_SECRET = "imdsv2_secret"  # noqa: S105 - the name of an option

OPTIONS = [
    *source.OPTIONS,
    cfg.StrOpt(
        "password_db",
        help="SQLite file for the passwords that guests set. mdmw makes the file and its folder at the first "
        "use. All worker processes share it. Without password_db, each process keeps passwords in memory.",
    ),
    cfg.StrOpt(
        "dhcp_domain",
        default="novalocal",
        help="Domain that the responder appends to host names. Empty: no domain.",
    ),
    cfg.StrOpt(
        "network_data_type",
        default=JSON,
        choices=[(JSON, "the true type"), ("text/plain", "the type that Nova sends")],
        help="Content type of network_data.json.",
    ),
    cfg.StrOpt(
        "imdsv2",
        default="off",
        choices=[
            ("off", "no session tokens, as in Nova"),
            ("optional", "a token that a guest sends must be valid"),
            ("required", "every request needs a valid token"),
        ],
        help="Session tokens as in Amazon's IMDSv2.",
    ),
    *secret_options(IMDSV2_SECRET, "Key that signs session tokens, for imdsv2 = optional or required."),
]

#: Names of the routes.
EC2_VERSIONS = "ec2-versions"
EC2 = "ec2"
OPENSTACK_VERSIONS = "openstack-versions"
OPENSTACK = "openstack"
CONTENT = "content"
PASSWORD = "password"  # noqa: S105 - the name of a route
TOKEN = "token"  # noqa: S105 - the name of a route

_ROUTES = (
    (EC2_VERSIONS, "/ec2"),
    (TOKEN, "/ec2/latest/api/token"),
    (EC2, "/ec2/{version}"),
    (EC2, "/ec2/{version}/{name:.+}"),
    (OPENSTACK_VERSIONS, "/openstack"),
    (CONTENT, "/openstack/content/{name}"),
    (PASSWORD, "/openstack/{version}/password"),
    (OPENSTACK, "/openstack/{version}"),
    (OPENSTACK, "/openstack/{version}/{name}"),
)
_TREES = ("ec2", "openstack")
_READ = ("GET", "HEAD")
_EC2_VERSIONS = text_lines(trees.EC2_TREE_VERSIONS)
_KEPT_TREES = 4096  # of about 10 KiB each


@dataclass(frozen=True, slots=True)
class ResourcePath:
    """A path of the metadata service: the name of its route, and the version and the rest of the path."""

    resource: str
    version: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Request:
    """What a page is made from."""

    environ: Environ
    path: ResourcePath
    library: "Library"
    guest: Guest


class Responder(Terminal):
    """Answers from the inventory and the password store."""

    stage = "respond"
    requires = frozenset({INSTANCE})

    def __init__(
        self,
        library: "Derived[Inventory, Library]",
        passwords: Passwords,
        tokens: Tokens | None = None,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._library = library
        self._passwords = passwords
        self._tokens = tokens
        self._today = today
        self._pages: dict[str, Callable[[_Request], Page | None]] = {
            EC2_VERSIONS: lambda _: _EC2_VERSIONS,
            EC2: self._ec2,
            OPENSTACK_VERSIONS: lambda _: text_lines((*self._listed(), trees.LATEST)),
            OPENSTACK: self._openstack,
            CONTENT: self._content,
            PASSWORD: self._password,
            TOKEN: self._token,
        }

    def respond(self, environ: Environ) -> App:
        """The page at the request target; raises domain errors."""
        text = normalise(request_target(environ))
        path = find(text)
        _check_method(environ["REQUEST_METHOD"], path)
        if text == "/":
            return _EC2_VERSIONS
        instance = _instance(environ)
        library = self._library.value()
        if library.guest(instance.id) is None:
            library = self._library.newest()  # the resolver may have found the instance in a newer inventory
        guest = _guest(instance, library, path, environ["REQUEST_METHOD"])
        if self._tokens and not (path and path.resource == TOKEN):
            self._tokens.check(environ, guest.id)
        page = path and self._pages[path.resource](_Request(environ, path, library, guest))
        if not page:
            raise NotFound(f"instance {guest.id} has nothing at {text!r}")
        return page

    def _ec2(self, request: _Request) -> Page | None:
        pages = request.library.ec2(request.guest, request.path.version, _peer_address(request.environ))
        return pages.get(request.path.name)

    def _openstack(self, request: _Request) -> Page | None:
        pages = request.library.openstack(request.guest, self._version(request))
        return pages.get(request.path.name)

    def _content(self, request: _Request) -> Page | None:
        return trees.openstack_contents(request.guest).get(request.path.name)

    def _password(self, request: _Request) -> Page | None:
        if not trees.has_password(self._version(request)):
            return None
        guest = request.guest
        if request.environ["REQUEST_METHOD"] == "POST":
            self._set_password(request.environ, guest)
            return Page(b"")
        return Page(guest.password or self._passwords.get(guest.id))

    def _set_password(self, environ: Environ, guest: Guest) -> None:
        try:
            password = read_body(environ, MAX_PASSWORD)
        except BodyTooLarge as error:
            raise BadRequest(f"a password for instance {guest.id}: {error}") from None
        if guest.password or self._passwords.get(guest.id):
            raise Conflict(f"instance {guest.id} has a password")
        # Nova accepts an empty password, and still counts the password as not set.
        if password and not self._passwords.put(guest.id, password):
            raise Conflict(f"instance {guest.id} has a password")

    def _token(self, request: _Request) -> Page | None:
        if self._tokens is None or request.environ["REQUEST_METHOD"] != "PUT":
            return None
        return self._tokens.issue(request.environ, request.guest.id)

    def _version(self, request: _Request) -> str:
        version = request.path.version
        return self._listed()[-1] if version == trees.LATEST else version

    def _listed(self) -> tuple[str, ...]:
        return trees.openstack_listing(self._today())


def _check_method(method: str, path: ResourcePath | None) -> None:
    """E-4: raises `MethodNotAllowed`."""
    allowed: tuple[str, ...] = _READ
    if path and path.resource == PASSWORD:
        allowed = (*_READ, "POST")
    elif path and path.resource == TOKEN:
        allowed = (*_READ, "PUT")
    if method not in allowed:
        raise MethodNotAllowed(f"{method} is not for this path", allowed)


def _instance(environ: Environ) -> Instance:
    instance: Instance | None = environ.get(INSTANCE)
    if instance is None:
        raise PipelineError("responder needs instance-resolve or hmac-verify before it")
    return instance


def _guest(instance: Instance, library: "Library", path: ResourcePath | None, method: str) -> Guest:
    """The instance as the inventory has it; `NotFound` when the inventory has another project (spec 3.2)."""
    guest = library.guest(instance.id)
    if guest is None:
        problem = f"instance {instance.id} is not in the inventory"
        if path and path.resource == PASSWORD and method == "POST":
            raise BadRequest(problem)  # spec 7.4
        raise NotFound(problem)
    if guest.project_id != instance.project_id:
        raise NotFound(
            f"instance {guest.id} belongs to project {guest.project_id}, its port to {instance.project_id}"
        )
    return guest


def _peer_address(environ: Environ) -> str:
    source: Source | None = environ.get(SOURCE)
    address: str = source.address if source else environ.get("REMOTE_ADDR", "")
    return address


class Library:
    """The pages of all instances of one content of the inventory. Pages are made once, at their first use."""

    def __init__(self, inventory: Inventory, dhcp_domain: str, network_data_type: str) -> None:
        self._guests = {guest.id: guest for guest in inventory.instances}
        self._networks = {network.id: network for network in inventory.networks}
        self._domain = f".{dhcp_domain}" if dhcp_domain else ""
        self._network_data_type = network_data_type
        self._openstack = lru_cache(_KEPT_TREES)(self._make_openstack)
        self._ec2 = lru_cache(_KEPT_TREES)(self._make_ec2)

    def guest(self, instance_id: str) -> Guest | None:
        """An instance of the inventory, by its id."""
        return self._guests.get(instance_id)

    def openstack(self, guest: Guest, version: str) -> Pages:
        """The pages below /openstack/<version>."""
        return self._openstack(guest.id, version)

    def ec2(self, guest: Guest, version: str, peer_address: str) -> Pages:
        """The pages below /<version>. `peer_address` is `local-ipv4` of an instance without a fixed IPv4."""
        return self._ec2(guest.id, version, _first_ipv4(guest) or peer_address)

    def _make_openstack(self, guest_id: str, version: str) -> Pages:
        guest = self._guests[guest_id]
        return trees.openstack_pages(
            guest, version, guest.hostname + self._domain, self._networks, self._network_data_type
        )

    def _make_ec2(self, guest_id: str, version: str, local_ipv4: str) -> Pages:
        guest = self._guests[guest_id]
        return trees.ec2_pages(guest, version, guest.hostname + self._domain, local_ipv4)


def _first_ipv4(guest: Guest) -> str | None:
    addresses = (address for port in guest.ports for address in port.addresses)
    return next((address for address in addresses if ipaddress.ip_address(address).version == 4), None)


# --- paths ------------------------------------------------------------------------------


def normalise(target: str) -> str:
    """The path of a request target, decoded once, without `//`, `.`, `..` and trailing `/` (E-1)."""
    path = unquote(target.partition("?")[0], errors="surrogateescape")
    return posixpath.normpath("/" + path.lstrip("/"))


def _mapper() -> Mapper:
    mapper = Mapper(explicit=True)
    for resource, route in _ROUTES:
        mapper.connect(None, route, resource=resource)
    mapper.create_regs()
    return mapper


_MAPPER = _mapper()


@lru_cache(maxsize=512)
def find(path: str) -> ResourcePath | None:
    """The route of a normalised path, or None. The instance may still have no such page."""
    if "\n" in path:  # an expression of Routes ends in `$`, which also matches before a final newline
        return None
    if path.split("/", 2)[1] not in _TREES:
        path = f"/ec2{path}" if path != "/" else "/ec2"
    match = _MAPPER.match(path)
    return ResourcePath(**match) if match else None


# --- strings to settings ----------------------------------------------------------------


def app_factory(global_conf: Mapping[str, str], **local_conf: str) -> Responder:
    """Paste entry point; raises `ConfigError`."""
    settings = load("responder", OPTIONS, global_conf, local_conf)

    def library(inventory: Inventory) -> Library:
        return Library(inventory, settings.dhcp_domain.strip("."), _content_type(settings))

    return Responder(
        source.from_inventory(settings, library),
        _passwords(settings),
        _tokens(settings),
    )


def _content_type(settings: SimpleNamespace) -> str:
    return JSON if settings.network_data_type == JSON else TEXT


def _passwords(settings: SimpleNamespace) -> Passwords:
    if not settings.password_db:
        place = settings.place
        LOG.warning("%s: no password_db: the passwords that guests set are lost when the process ends", place)
        return PasswordsInMemory()
    path = Path(settings.password_db)
    if path.is_dir():
        raise refuse(settings, "password_db", f"{path} is a folder; a file is allowed")
    return PasswordFile(path)


def _tokens(settings: SimpleNamespace) -> Tokens | None:
    secrets = read_secrets(settings, IMDSV2_SECRET)
    if settings.imdsv2 == "off":
        return None
    if not secrets or not all(secrets):
        raise refuse(settings, "imdsv2", f"{settings.imdsv2} needs {IMDSV2_SECRET}_file")
    return Tokens(Signer(secrets), required=settings.imdsv2 == "required")
