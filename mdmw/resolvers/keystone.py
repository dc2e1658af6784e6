"""The token that Neutron wants to see, and Neutron's address, which comes with it.

R-16: one token for all threads, and through a `TokenStore` for all processes of a group; made
anew a minute before it expires, and once when Neutron answers 401. R-17: the address is that of
the catalogue.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import keystoneauth1.session
import requests
from keystoneauth1 import exceptions
from keystoneauth1.identity.base import BaseIdentityPlugin

from mdmw.errors import Unavailable
from mdmw.resolvers.credentials import Credentials
from mdmw.resolvers.token_store import TokenStore
from mdmw.upstream import transport
from mdmw.upstream.exchange import Limits

MARGIN = 60.0  # seconds before its end at which a token is not used any more (spec 2.7)
LEAST_USE = 5.0  # seconds for which a new token is used whatever its end: clocks may differ
REST = 1.0  # seconds between two authentications, if the first one failed or its token was refused

#: What comes out of keystoneauth1, which takes the form of Keystone's answers for granted.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class Access:
    """What a request to Neutron needs; `until` is on the clock of `time.time`."""

    headers: Mapping[str, str] = field(repr=False)
    endpoint: str
    until: float


class Keystone:
    """Hands out the current `Access`, and carries requests. Thread-safe; connects on first use."""

    def __init__(self, credentials: Credentials, limits: Limits, store: TokenStore) -> None:
        self._credentials = credentials
        self._plugin = credentials.plugin
        if isinstance(self._plugin, BaseIdentityPlugin):
            self._plugin.reauthenticate = False  # when to do that is decided here
        self._store = store
        # Without `auth`: after a 401 the session would ask the plugin for a token, and where the plugin
        # itself asked, about versions, wait for that without an end.
        self._session = keystoneauth1.session.Session(
            session=transport.session(limits),
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
            # Its warnings are in our errors already, and at DEBUG it logs a token of the API 2.0.
            logger.setLevel(logging.ERROR)

    def get(self, path: str) -> requests.Response:
        """GET of a path and query below Neutron's address; raises `Unavailable`.

        A 401 leads to one more try with a new token.
        """
        access = self.access()
        response = self._get(access, path)
        if response.status_code == 401:
            response = self._get(self.access(refused=access), path)
        return response

    def access(self, refused: Access | None = None) -> Access:
        """The current one, or another than Neutron `refused`; raises `Unavailable`."""
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
        """No more than one authentication per `REST`, lest a storm locks the account."""
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
            self._failure = f"Keystone {self._told(error)}"
        except _MALFORMED as error:
            self._failure = f"Keystone answers something of the wrong form ({type(error).__name__})"
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
        """What another process left; a broken file is as good as none."""
        state = self._store.load()
        if not state:
            return None
        try:
            plugin.set_auth_state(state)
            return self._of(plugin)
        except (exceptions.ClientException, *_MALFORMED):
            return None

    def _of(self, plugin: BaseIdentityPlugin, least: float = 0.0) -> Access:
        """Authenticates only if the plugin has no token at all."""
        headers = plugin.get_headers(self._session) or {}
        expires = plugin.get_access(self._session).expires
        if expires is None:
            raise ValueError
        return Access(headers, self._endpoint(), max(expires.timestamp() - MARGIN, least))

    def _endpoint(self) -> str:
        """R-17: an option, else what the catalogue says; it may end in the API's version."""
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

    def _told(self, error: BaseException) -> str:
        """An error of keystoneauth1 without anything that Keystone wrote: it may quote secrets."""
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
