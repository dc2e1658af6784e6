"""Keystone: the credentials for Neutron, the token for Neutron, and Neutron's address.

R-16: all threads use one token, and through a `TokenStore` all processes of a group. The token is renewed
a minute before it expires, and once when Neutron answers 401. R-17: the address comes from the catalogue.
"""

import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import urlsplit

import keystoneauth1.session
import requests
from keystoneauth1 import exceptions, loading
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.identity.generic import Password
from keystoneauth1.loading.adapter import process_conf_options
from keystoneauth1.noauth import NoAuth
from keystoneauth1.plugin import BaseAuthPlugin
from oslo_config import cfg

from mdmw.errors import ConfigError, Unavailable
from mdmw.options import refuse
from mdmw.resolvers.shared import group_directory, locked
from mdmw.upstream import transport
from mdmw.upstream.exchange import Limits
from mdmw.upstream.transport import Cert, Verify, context_of

_OLD = "For a configuration of 2013, without a [neutron] group: "
_INTERFACES = ["publicURL", "internalURL", "adminURL", "public", "internal", "admin"]

OPTIONS = [
    cfg.StrOpt("auth_url", help=_OLD + "address of Keystone. A final /v2.0 is ignored."),
    cfg.StrOpt("auth_region", help=_OLD + "region of Neutron's endpoint."),
    cfg.StrOpt("admin_tenant_name", help=_OLD + "project of the service user."),
    cfg.StrOpt("admin_user", help=_OLD + "name of the service user."),
    cfg.StrOpt("admin_password", secret=True, help=_OLD + "password of the service user."),
    cfg.BoolOpt("auth_insecure", default=False, help=_OLD + "true: certificates are not verified."),
    cfg.StrOpt("auth_ca_cert", help=_OLD + "file with the CA certificates that verify Keystone and Neutron."),
    cfg.StrOpt(
        "endpoint_type",
        default="adminURL",
        choices=_INTERFACES,
        help=_OLD + "interface of Neutron's endpoint in the catalogue.",
    ),
    cfg.StrOpt("endpoint_url", help=_OLD + "address of Neutron, instead of the address in the catalogue."),
    cfg.StrOpt(
        "auth_strategy",
        default="keystone",
        choices=["keystone", "noauth"],
        help=_OLD + "how to authenticate. noauth needs endpoint_url, and no Keystone.",
    ),
]


LOG = logging.getLogger(__name__)

GROUP = "neutron"

_NEEDED = ("auth_url", "admin_user", "admin_password", "admin_tenant_name")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A keystoneauth1 plugin, how to connect, and where Neutron is."""

    plugin: BaseAuthPlugin
    verify: Verify = True
    cert: Cert = None
    timeout: float | None = None  # seconds for one read; None: the option of the resolver
    endpoint: str | None = None  # instead of the address in the catalogue
    catalogue: Mapping[str, Any] = field(default_factory=dict)  # which endpoint, as `get_endpoint` takes it


def has_credentials(settings: SimpleNamespace) -> bool:
    """Whether the options have credentials for Neutron's REST API. The credentials may be incomplete."""
    return bool(_auth_type(_parsed(settings)) or _is_old(settings))


def load_credentials(settings: SimpleNamespace) -> Credentials:
    """The credentials of a section; raises `ConfigError` when they are missing or cannot be used."""
    found = _of_group(settings) or _of_old_names(settings)
    if found is None:
        raise ConfigError(
            f"{settings.place}: no credentials for Neutron: give a file with a [neutron] group (auth_type, "
            "auth_url, username, password, ...) in config_file, or the older admin_user, admin_password, "
            "admin_tenant_name and auth_url"
        )
    try:
        context_of(found.verify, found.cert)
    except OSError as error:
        raise ConfigError(f"{settings.place}: a certificate cannot be used: {error}") from None
    return found


# --- the group of today -----------------------------------------------------------------


def _parsed(settings: SimpleNamespace) -> cfg.ConfigOpts:
    conf: cfg.ConfigOpts = settings.config.parse(settings.place)
    loading.register_auth_conf_options(conf, GROUP)
    loading.register_session_conf_options(conf, GROUP)
    loading.register_adapter_conf_options(conf, GROUP)
    return conf


def _auth_type(conf: cfg.ConfigOpts) -> str | None:
    """The name of the plugin. It may be in another group, which `auth_section` names."""
    name: str | None = conf[conf[GROUP].auth_section or GROUP].auth_type
    return name


def _of_group(settings: SimpleNamespace) -> Credentials | None:
    conf = _parsed(settings)
    section = conf[GROUP].auth_section or GROUP
    here, place = (f"{settings.place}: [{name}]" for name in (GROUP, section))
    try:
        plugin = loading.load_auth_from_conf_options(conf, GROUP)
    except exceptions.AuthPluginException as error:
        raise ConfigError(f"{place}: {error}") from None
    except cfg.Error:  # the text of the error may contain a part of the password
        raise ConfigError(f"{place}: a value cannot be read; a dollar sign is written $$") from None
    if plugin is None:
        return None
    for option in ("auth_url", "password"):  # keystoneauth1 would miss them at the first request
        if option in conf[section] and not conf[section][option]:
            raise ConfigError(f"{place}: option {option!r} is required")
    group = conf[GROUP]
    wanted: dict[str, Any] = {}
    try:
        process_conf_options(group, wanted)
        timeout = group.timeout
    except (cfg.Error, TypeError, ValueError) as error:
        raise ConfigError(f"{here}: {' '.join(str(error).split())}") from None
    if timeout is not None and not timeout > 0:
        raise ConfigError(f"{here}: option 'timeout': must be more than 0")
    _check_url(place, "auth_url", getattr(plugin, "auth_url", None))
    _check_url(here, "endpoint_override", wanted["endpoint_override"])
    return Credentials(
        plugin,
        verify=not group.insecure and (group.cafile or True),
        cert=(group.certfile, group.keyfile) if group.keyfile else group.certfile,
        timeout=timeout,
        endpoint=wanted["endpoint_override"],
        catalogue={
            "service_type": wanted["service_type"] or "network",
            "service_name": wanted["service_name"],
            "interface": wanted["interface"] or ["internal", "public"],
            "region_name": wanted["region_name"],
        },
    )


# --- the names of 2013 ------------------------------------------------------------------


def _is_old(settings: SimpleNamespace) -> bool:
    if settings.auth_strategy == "noauth":
        return bool(settings.endpoint_url)
    return bool(settings.admin_user or settings.admin_password)


def _of_old_names(settings: SimpleNamespace) -> Credentials | None:
    if not _is_old(settings):
        return None
    place = settings.place
    LOG.warning(
        "%s: auth_url, admin_user and the like are old options; write a [neutron] group instead", place
    )
    _check_url(place, "auth_url", settings.auth_url)
    _check_url(place, "endpoint_url", settings.endpoint_url)
    return Credentials(
        NoAuth(endpoint=settings.endpoint_url) if settings.auth_strategy == "noauth" else _password(settings),
        verify=not settings.auth_insecure and (settings.auth_ca_cert or True),
        endpoint=settings.endpoint_url,
        catalogue={
            "service_type": "network",
            "interface": settings.endpoint_type,
            "region_name": settings.auth_region,
        },
    )


def _password(settings: SimpleNamespace) -> Password:
    for option in _NEEDED:
        if not getattr(settings, option):
            raise refuse(settings, option, f"is needed; {', '.join(_NEEDED)} go together")
    # The API of 2013 had no domains. The default domain stands for that in today's API.
    return Password(
        auth_url=settings.auth_url.rstrip("/").removesuffix("/v2.0"),
        username=settings.admin_user,
        password=settings.admin_password,
        project_name=settings.admin_tenant_name,
        default_domain_id="default",
    )


def _check_url(place: str, option: str, url: str | None) -> None:
    """Raises `ConfigError` for a URL with a password, which would be in every log line with the URL."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc:
        raise ConfigError(
            f"{place}: option {option!r}: must be an http:// or https:// URL without user and password"
        )


class TokenStore(Protocol):
    """Keeps a token for several processes, as text. One thread of a process uses the store at a time."""

    def exclusive(self, timeout: float) -> AbstractContextManager[None]:
        """Inside, no other process of the group authenticates; `Unavailable` after `timeout` seconds."""

    def load(self) -> str | None:
        """The text that the group saved last, or None. Call it inside `exclusive`."""

    def save(self, state: str) -> None:
        """Keep `state` for the group. Call it inside `exclusive`."""


class UnsharedToken:
    """The `TokenStore` of a process that does not share its token."""

    def exclusive(self, timeout: float) -> AbstractContextManager[None]:  # noqa: ARG002 - there is nothing to wait for
        return nullcontext()

    def load(self) -> str | None:
        return None

    def save(self, state: str) -> None:
        """Nothing: the process has the token in memory."""


class GroupFile:
    """The `TokenStore` of a group of processes: a file with mode 0600, which is the lock and has the token.

    A file that cannot be opened or written is logged, and the process does not share its token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    @contextmanager
    def exclusive(self, timeout: float) -> Iterator[None]:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            LOG.warning("the token of Keystone is not shared with other processes: %s", error)
            yield
            return
        try:
            with locked(self._fd, timeout, "another process did not finish authenticating in time"):
                yield
        finally:
            os.close(self._fd)
            self._fd = -1

    def load(self) -> str | None:
        if self._fd < 0:
            return None
        with open(self._fd, "rb", closefd=False) as file:
            return file.read().decode("utf-8", "replace") or None

    def save(self, state: str) -> None:
        if self._fd < 0:
            return
        try:
            os.truncate(self._fd, 0)
            os.pwrite(self._fd, state.encode(), 0)
        except OSError as error:
            LOG.warning("the token of Keystone is not shared with other processes: %s", error)


def store_for(identity: str | None, place: str) -> TokenStore:
    """The store for the token of these credentials. `identity` is the `get_cache_id()` of a plugin.

    Raises `ConfigError` when the directory of the group is not private.
    """
    directory = group_directory(place)
    if directory is None or identity is None:
        return UnsharedToken()
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return GroupFile(directory / f"token-{name}")


MARGIN = 60.0  # seconds before its end from which a token is not used (spec 2.7)
LEAST_USE = 5.0  # seconds for which a new token is always used, since clocks may differ
REST = 1.0  # seconds before the next authentication, when one failed or Neutron refused its token

#: Errors that keystoneauth1 raises when the answer of Keystone is malformed.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class Access:
    """The headers and the address for a request to Neutron. `until` is Unix time."""

    headers: Mapping[str, str] = field(repr=False)
    endpoint: str
    until: float


class Keystone:
    """Sends requests to Neutron with a valid token. Thread-safe; connects on first use."""

    def __init__(self, credentials: Credentials, limits: Limits, store: TokenStore) -> None:
        self._credentials = credentials
        self._plugin = credentials.plugin
        if isinstance(self._plugin, BaseIdentityPlugin):
            self._plugin.reauthenticate = False  # this class decides when to authenticate
        self._store = store
        # Without `auth`. After a 401 the session would ask the plugin for a token. When the plugin itself
        # sent the request, to discover versions, the two would wait for each other for ever.
        requests_session = transport.session(limits)
        self.measurements = requests_session.measurements
        self._session = keystoneauth1.session.Session(
            session=requests_session,
            verify=credentials.verify,
            cert=credentials.cert,
            user_agent="mdmw",
            redirect=False,
        )
        self._lock = threading.Lock()
        self._access: Access | None = None
        self._failure = ""
        self._failed_at = self._renewed_at = -math.inf
        logger = logging.getLogger("keystoneauth")
        if logger.level == logging.NOTSET:
            # Its warnings are in the errors of mdmw already. At DEBUG it would log a token of the API 2.0.
            logger.setLevel(logging.ERROR)

    def get(self, path: str) -> requests.Response:
        """Send a GET of a path and query below Neutron's address; raises `Unavailable`.

        After a 401 the request is sent once more, with a new token.
        """
        access = self.access()
        response = self._get(access, path)
        if response.status_code == 401:
            response = self._get(self.access(refused=access), path)
        return response

    def access(self, refused: Access | None = None) -> Access:
        """The current token and address, or new ones when Neutron `refused` these; raises `Unavailable`."""
        current = self._access
        if current and _is_good(current, refused):
            return current
        if not self._lock.acquire(timeout=min(transport.time_left(), threading.TIMEOUT_MAX)):
            raise Unavailable("Keystone: another request did not finish authenticating in time")
        try:
            current = self._access
            if current is None or not _is_good(current, refused):
                current = self._access = self._next(refused)
            return current
        finally:
            self._lock.release()

    # --- one thread at a time ------------------------------------------------------------

    def _next(self, refused: Access | None) -> Access:
        """Authenticate, at most once in `REST` seconds: many failures in a row can lock the account."""
        now = time.monotonic()
        if now - self._failed_at < REST:
            raise Unavailable(self._failure)
        if refused:
            if now - self._renewed_at < REST or not isinstance(self._plugin, BaseIdentityPlugin):
                raise Unavailable("Neutron refuses the token that it was given (401)")
            self._renewed_at = now
        try:
            if isinstance(self._plugin, BaseIdentityPlugin):
                return self._of_group(self._plugin, refused)
            return Access(self._plugin.get_headers(self._session) or {}, self._endpoint(), math.inf)
        except Unavailable as error:
            self._failure = f"Keystone: {error}"
        except exceptions.ClientException as error:
            self._failure = f"Keystone {self._description(error)}"
        except _MALFORMED as error:
            self._failure = f"Keystone gives a malformed answer ({type(error).__name__})"
        self._failed_at = time.monotonic()
        raise Unavailable(self._failure)

    def _of_group(self, plugin: BaseIdentityPlugin, refused: Access | None) -> Access:
        with self._store.exclusive(transport.time_left()):
            access = self._stored(plugin)
            if access is None or not _is_good(access, refused):
                plugin.invalidate()
                access = self._of(plugin, time.time() + LEAST_USE)
                self._store.save(plugin.get_auth_state() or "")
            return access

    def _stored(self, plugin: BaseIdentityPlugin) -> Access | None:
        """The token of another process, or None. A broken file counts as none."""
        state = self._store.load()
        if not state:
            return None
        try:
            plugin.set_auth_state(state)
            return self._of(plugin)
        except (exceptions.ClientException, *_MALFORMED):
            return None

    def _of(self, plugin: BaseIdentityPlugin, least: float = 0.0) -> Access:
        """The token of the plugin, which authenticates when it has none."""
        headers = plugin.get_headers(self._session) or {}
        expires = plugin.get_access(self._session).expires
        if expires is None:
            raise ValueError
        return Access(headers, self._endpoint(), max(expires.timestamp() - MARGIN, least))

    def _endpoint(self) -> str:
        """R-17: the address in the options, or else in the catalogue, without the version of the API."""
        wanted = self._credentials
        found = wanted.endpoint or self._plugin.get_endpoint(
            self._session, skip_discovery=True, **wanted.catalogue
        )
        if not found:
            raise exceptions.EndpointNotFound
        endpoint: str = found.rstrip("/").removesuffix("/v2.0")
        return endpoint

    # --- helpers -------------------------------------------------------------------------

    def _get(self, access: Access, path: str) -> requests.Response:
        try:
            response: requests.Response = self._session.get(
                access.endpoint + path,
                headers=dict(access.headers),
                authenticated=False,
                raise_exc=False,
                log=False,
            )
        except Unavailable as error:
            raise Unavailable(f"Neutron: {error}") from None
        except exceptions.ClientException as error:
            raise Unavailable(f"Neutron cannot be asked ({type(error).__name__})") from None
        return response

    def _description(self, error: BaseException) -> str:
        """An error of keystoneauth1 in words that never quote Keystone, since a quote may contain secrets."""
        if isinstance(error, exceptions.DiscoveryFailure):
            if not isinstance(error.__context__, exceptions.HttpError):
                return "does not say which versions of its API there are"
            error = error.__context__
        if isinstance(error, exceptions.MissingAuthPlugin):
            return "wants a token before it says which versions of its API there are (401)"
        if isinstance(error, exceptions.Unauthorized):
            return "refuses the credentials (401)"
        if isinstance(error, exceptions.HttpError):
            return f"answers {error.http_status}"
        if isinstance(error, exceptions.InvalidResponse):
            return f"answers {error.response.status_code} without a token"
        if isinstance(error, exceptions.EndpointNotFound):
            return "has no endpoint of Neutron in its catalogue for " + ", ".join(
                f"{name} {value}" for name, value in self._credentials.catalogue.items() if value
            )
        return f"cannot be used ({type(error).__name__})"


def _is_good(access: Access, refused: Access | None) -> bool:
    if refused and access.headers == refused.headers:
        return False
    return time.time() < access.until
