"""Who we are to Keystone, and where Neutron is, from configuration files.

The `[neutron]` group is that of nova.conf: every plugin of keystoneauth1 works. Without it, the
names that the metadata agent had until 2014 count, with a warning.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from keystoneauth1 import exceptions, loading
from keystoneauth1.identity.generic import Password
from keystoneauth1.loading.adapter import process_conf_options
from keystoneauth1.noauth import NoAuth
from keystoneauth1.plugin import BaseAuthPlugin
from oslo_config import cfg

from mdmw.errors import ConfigError
from mdmw.options import refuse
from mdmw.upstream.transport import Cert, Verify, context_of

LOG = logging.getLogger(__name__)

GROUP = "neutron"

_NEEDED = ("auth_url", "admin_user", "admin_password", "admin_tenant_name")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A keystoneauth1 plugin, how to connect, and where Neutron is."""

    plugin: BaseAuthPlugin
    verify: Verify = True
    cert: Cert = None
    timeout: float | None = None  # seconds, of one read; None: the resolver's own
    endpoint: str | None = None  # instead of that in the catalogue
    catalogue: Mapping[str, Any] = field(default_factory=dict)  # which endpoint, as `get_endpoint` takes it


def has_credentials(settings: SimpleNamespace) -> bool:
    """Whether somebody wrote credentials for Neutron's REST API; they may still be incomplete."""
    return bool(_auth_type(_parsed(settings)) or _is_old(settings))


def load(settings: SimpleNamespace) -> Credentials:
    """The credentials of a section; `ConfigError` for none at all, and for those that cannot be used."""
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
    """The plugin's name; it may be in another group, that `auth_section` names."""
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
    except cfg.Error:  # its text may have a part of a password
        raise ConfigError(f"{place}: a value cannot be read; a dollar sign is written $$") from None
    if plugin is None:
        return None
    for option in ("auth_url", "password"):  # keystoneauth1 misses them when it is too late
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
    LOG.warning("%s: auth_url, admin_user and so on are old names; write a [neutron] group instead", place)
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
    # What the API of 2013 did not know, domains, is the default domain in the API of today.
    return Password(
        auth_url=settings.auth_url.rstrip("/").removesuffix("/v2.0"),
        username=settings.admin_user,
        password=settings.admin_password,
        project_name=settings.admin_tenant_name,
        default_domain_id="default",
    )


def _check_url(place: str, option: str, url: str | None) -> None:
    """A password in a URL would be in every log line that names the URL."""
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
