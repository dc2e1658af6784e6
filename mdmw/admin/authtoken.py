"""authtoken: auth_token of keystonemiddleware, with safe options and with the errors of the admin API.

Reads: `X-Auth-Token`, `X-Service-Token`.
Writes: `mdmw.operator`, from Keystone's answer about the token. Identity headers of the request are removed.
Answers: 401 without a valid token; 503 if Keystone does not answer.
Place: before admin. The section takes the options of auth_token, and those of the plugin that auth_type
names. Other options come from the group [keystone_authtoken] of the files in config_file.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from keystoneauth1 import exceptions, loading
from keystoneauth1.access import AccessInfoV3
from keystoneauth1.loading import BaseLoader
from keystonemiddleware import auth_token
from keystonemiddleware.exceptions import KeystoneMiddlewareException
from oslo_config import cfg
from webob import Request, Response
from webob.exc import HTTPServiceUnavailable, HTTPUnauthorized

from mdmw.admin.call import refusal
from mdmw.admin.policy import OPERATOR, Operator
from mdmw.boundary.stage import App
from mdmw.errors import ConfigError, Unauthorized, Unavailable
from mdmw.options import CONFIG_DIR, CONFIG_FILE, ConfigFiles, place_of

GROUP = "keystone_authtoken"

#: With the middleware's own defaults, a request may hang, and a revoked token is valid for five minutes.
DEFAULTS = {"http_connect_timeout": 5, "http_request_max_retries": 1, "token_cache_time": 30}

_WHO = "authtoken"

#: Errors of keystoneclient after a malformed answer of Keystone.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, NotImplementedError)


class AuthToken(auth_token.AuthProtocol):  # type: ignore[misc]  # keystonemiddleware has no types
    """The middleware, with answers of the admin API, and the operator in the environ.

    Of the base class this class uses the constructor with `oslo_config_config`, `process_request`, the
    attribute `www_authenticate_uri`, and the environ key `keystone.token_auth` with its attribute `user`.
    """

    provides = frozenset({OPERATOR})

    def __init__(self, app: App | None, conf: cfg.ConfigOpts) -> None:
        super().__init__(app, {"oslo_config_config": conf})

    def process_request(self, request: Request) -> Response | None:
        """Check the token. Returns None, or the response that ends the request."""
        try:
            super().process_request(request)
        except HTTPUnauthorized:
            response = refusal(Unauthorized("a valid token of Keystone is needed"), request.environ, _WHO)
            response.headers["WWW-Authenticate"] = f'Keystone uri="{self.www_authenticate_uri}"'
            return response
        except HTTPServiceUnavailable:
            return refusal(
                Unavailable("Keystone does not answer the question about the token"), request.environ, _WHO
            )
        except exceptions.ClientException as error:
            problem = f"Keystone does not answer the question about the token ({type(error).__name__})"
            return refusal(Unavailable(problem), request.environ, _WHO)
        except _MALFORMED as error:
            problem = f"the answer of Keystone is malformed ({type(error).__name__})"
            return refusal(Unavailable(problem), request.environ, _WHO)
        request.environ[OPERATOR] = _operator(request.environ["keystone.token_auth"].user)
        return None


def _operator(token: AccessInfoV3) -> Operator:
    credentials = {
        "roles": token.role_names,
        "user_id": token.user_id,
        "user_domain_id": token.user_domain_id,
        "project_id": token.project_id,
        "project_domain_id": token.project_domain_id,
        "domain_id": token.domain_id,
        "system_scope": "all" if token.system and token.system.get("all") else None,
    }
    return Operator(token.username or "", token.user_id or "", token.project_id or "", credentials)


# --- strings to settings ----------------------------------------------------------------


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], AuthToken]:
    """Paste entry point; raises `ConfigError`."""
    place = place_of("authtoken", global_conf, local_conf)
    conf = _parse(place, dict(local_conf))
    try:
        AuthToken(None, conf)  # raises an error for options that the middleware refuses
    except (exceptions.AuthPluginException, KeystoneMiddlewareException, cfg.Error, ValueError) as error:
        raise ConfigError(f"{place}: {' '.join(str(error).split())}") from None
    return partial(AuthToken, conf=conf)


def _parse(place: str, given: dict[str, str]) -> cfg.ConfigOpts:
    """The options of the section and of its files; raises `ConfigError`, one line."""
    files = ConfigFiles(*(option.type(given.pop(option.dest, "")) for option in (CONFIG_FILE, CONFIG_DIR)))
    options = dict(auth_token.list_opts())[GROUP]
    conf = files.parse(place, options, GROUP)
    for name, value in DEFAULTS.items():
        conf.set_default(name, value, GROUP)
    section = given.get("auth_section") or conf[GROUP].auth_section or GROUP
    if section != GROUP:
        loading.register_auth_conf_options(conf, section)
    plugin = _plugin_options(place, given.get("auth_type") or conf[section].auth_type)
    conf.register_opts(plugin, section)
    known = {opt.dest: (opt, GROUP) for opt in options} | {opt.dest: (opt, section) for opt in plugin}
    for name, text in given.items():
        if name not in known:
            raise ConfigError(f"{place}: unknown option {name!r}; known are: {', '.join(sorted(known))}")
        opt, group = known[name]
        _override(place, conf, opt, group, text)
    _check(place, conf, section)
    return conf


def _plugin_options(place: str, auth_type: str | None) -> Sequence[cfg.Opt]:
    if not auth_type:
        raise ConfigError(
            f"{place}: option 'auth_type' is required, here or in [{GROUP}] of a file in config_file; "
            "without this option, Keystone cannot be asked about tokens"
        )
    try:
        loader: BaseLoader[Any] = loading.get_plugin_loader(auth_type)
    except exceptions.NoMatchingPlugin as error:
        raise ConfigError(f"{place}: option 'auth_type': {error}") from None
    options: Sequence[cfg.Opt] = loading.get_auth_plugin_conf_options(loader)
    return options


def _override(place: str, conf: cfg.ConfigOpts, opt: cfg.Opt, group: str, text: str) -> None:
    try:
        conf.set_override(opt.dest, opt.type(text), group)
    except (ValueError, TypeError) as error:
        problem = "not allowed" if opt.secret else f"{text!r}: {error}"
        raise ConfigError(f"{place}: option {opt.dest!r}: value {problem}") from None


def _check(place: str, conf: cfg.ConfigOpts, section: str) -> None:
    """Refuse options that the middleware accepts, but that fail later or are not safe."""
    group = conf[GROUP]
    for option in (
        "auth_url",
        "password",
    ):  # keystoneauth1 would miss these options only at the first request
        if option in conf[section] and not conf[section][option]:
            raise ConfigError(f"{place}: option {option!r} is required")
    if group.delay_auth_decision:
        raise ConfigError(f"{place}: option 'delay_auth_decision': only false is allowed")
    if group.memcached_servers and not (
        group.memcache_security_strategy.upper() == "ENCRYPT" and group.memcache_secret_key
    ):
        raise ConfigError(
            f"{place}: option 'memcached_servers': cached tokens must be encrypted: set "
            "memcache_security_strategy = ENCRYPT, and a memcache_secret_key"
        )
    if not group.www_authenticate_uri:
        # The middleware would ask Keystone for this address, and fail with a traceback if Keystone is down.
        if "auth_url" not in conf[section]:
            raise ConfigError(f"{place}: option 'www_authenticate_uri' is required with this auth_type")
        conf.set_override("www_authenticate_uri", conf[section].auth_url, GROUP)
