"""The options of the cache: those of instance-resolve, and what Neutron's own files say in `[cache]`."""

import logging
import time
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg

from mdmw.errors import ConfigError
from mdmw.options import refuse
from mdmw.resolvers.caching import Caching, Limits
from mdmw.resolvers.contract import Resolver
from mdmw.resolvers.group import group_directory
from mdmw.resolvers.shared import Group, Shared

LOG = logging.getLogger(__name__)

_MEMORY, _MEMCACHED = "dogpile.cache.memory", "dogpile.cache.pymemcache"
# What oslo.cache has, in Neutron's files; one client serves for every memcached.
_OTHER_NAMES = {
    "dogpile.cache.memcached": _MEMCACHED,
    "dogpile.cache.bmemcached": _MEMCACHED,
    "dogpile.cache.pylibmc": _MEMCACHED,
    "oslo_cache.memcache_pool": _MEMCACHED,
    "dogpile.cache.null": _MEMORY,
    "dogpile.cache.memory_pickle": _MEMORY,
    "oslo_cache.dict": _MEMORY,
}
_CLOCKS_DIFFER = 0.5  # seconds, between hosts that keep their time with NTP

OPTIONS = [
    cfg.BoolOpt(
        "cache_enabled",
        help="Remember who is who, instead of asking for each request. On, unless enabled is off in "
        "the group [cache] of a config_file. A resolver that answers from memory is never cached.",
    ),
    cfg.FloatOpt(
        "cache_expiration_time",
        min=0,
        help="Seconds that an identity is remembered; 10, unless the group [cache] of a config_file has an "
        "expiration_time.",
    ),
    cfg.FloatOpt(
        "cache_negative_time",
        default=1.0,
        min=0,
        max=1,
        help="Seconds for which it is remembered that an address is nobody's.",
    ),
    cfg.FloatOpt(
        "cache_idle_time",
        default=5.0,
        min=0,
        help="An address that was silent for so many seconds is looked up anew, since it may be another "
        "guest's by now; not where the MAC was seen.",
    ),
    cfg.FloatOpt(
        "cache_stale_if_error",
        default=30.0,
        min=0,
        help="Seconds after its expiration for which an identity serves GET and HEAD while the resolver "
        "cannot be asked.",
    ),
    cfg.IntOpt("cache_max_entries", default=10_000, min=100, help="Most answers that one process remembers."),
    cfg.StrOpt(
        "cache_backend",
        choices=[
            (_MEMORY, "each process remembers for itself, and with the worker processes of its server"),
            (_MEMCACHED, "agents share answers through memcached as well; needs the extra mdmw[memcached]"),
        ],
        help="A dogpile.cache backend; memory, unless the group [cache] of a config_file names another.",
    ),
    cfg.MultiStrOpt(
        "cache_backend_argument",
        default=[],
        help="NAME:VALUE for memcached. url: HOST:PORT, [IPV6]:PORT or the path of a unix socket, several "
        "with commas (localhost:11211). socket_timeout: seconds (0.5).",
    ),
]

_NEUTRON = [
    cfg.BoolOpt("enabled"),
    cfg.StrOpt("backend"),
    cfg.FloatOpt("expiration_time", min=0),
    cfg.MultiStrOpt("backend_argument", default=[]),
    cfg.ListOpt("memcache_servers"),
]


def cached(resolver: Resolver, settings: SimpleNamespace) -> Resolver:
    """`resolver` behind a cache, unless the options say no or it has no use for one; raises `ConfigError`."""
    neutron = _of_neutron(settings)
    enabled = _first(settings.cache_enabled, neutron.enabled, True)
    if not enabled or getattr(resolver, "cheap", False):
        return resolver
    limits = Limits(
        expiration=_first(settings.cache_expiration_time, neutron.expiration_time, 10.0),
        negative=settings.cache_negative_time,
        idle=settings.cache_idle_time,
        stale=settings.cache_stale_if_error,
        entries=settings.cache_max_entries,
    )
    keep = limits.expiration + limits.stale
    group = _group(settings)
    if _backend(settings, neutron) == _MEMCACHED:
        shared = _through_memcached(settings, neutron, keep)
    elif group:
        shared = Shared("mdmw.directory", {"path": group.directory, "keep": keep}, time.monotonic)
    else:
        shared = None
    return Caching(resolver, limits, shared, group)


def _of_neutron(settings: SimpleNamespace) -> SimpleNamespace:
    conf = settings.config.parse(settings.place, _NEUTRON, "cache")
    values = {}
    for opt in _NEUTRON:
        try:
            values[opt.dest] = conf.cache[opt.dest]
        except (cfg.Error, ValueError):
            where = ", ".join([*settings.config.files, *settings.config.directories])
            raise ConfigError(
                f"{settings.place}: {where}: option {opt.dest!r} in [cache]: the value is not allowed"
            ) from None
    return SimpleNamespace(**values)


def _group(settings: SimpleNamespace) -> Group | None:
    directory = group_directory(settings.place)
    return None if directory is None else Group(directory)


def _backend(settings: SimpleNamespace, neutron: SimpleNamespace) -> str:
    if settings.cache_backend:
        name = settings.cache_backend
    else:
        name = neutron.backend or _MEMORY
        name = _OTHER_NAMES.get(name, name)
        if name not in (_MEMORY, _MEMCACHED):
            LOG.warning("%s: [cache] backend %s is not used; each process remembers", settings.place, name)
            name = _MEMORY
    if name == _MEMCACHED and find_spec("pymemcache") is None:
        raise refuse(settings, "cache_backend", f"{name} needs pymemcache: install mdmw[memcached]")
    return str(name)


def _through_memcached(settings: SimpleNamespace, neutron: SimpleNamespace, keep: float) -> Shared:
    given = settings.cache_backend_argument
    pairs = [text.partition(":") for text in given or neutron.backend_argument]
    arguments = {name.strip(): value.strip() for name, _, value in pairs}
    if given and (unknown := sorted(set(arguments) - {"url", "socket_timeout"})):
        raise refuse(
            settings, "cache_backend_argument", f"{unknown[0]!r}: allowed are url and socket_timeout"
        )
    url = arguments.get("url")
    servers = url.split(",") if url else neutron.memcache_servers or ["localhost:11211"]
    try:
        timeout = float(arguments.get("socket_timeout", "0.5"))
    except ValueError:
        timeout = 0.0
    if not 0 < timeout <= 60:
        raise refuse(settings, "cache_backend_argument", "socket_timeout is a number of seconds above 0")
    urls = [_server(text.strip()) for text in servers]
    final = {"url": urls, "timeout": timeout, "expire": int(keep) + 1}
    try:
        return Shared("mdmw.memcached", final, time.time, _CLOCKS_DIFFER)
    except ValueError as error:
        raise refuse(settings, "cache_backend_argument", f"url {', '.join(urls)}: {error}") from None


def _server(text: str) -> str:
    """oslo.cache writes `inet6:[::1]:11211` too."""
    return text.removeprefix("inet6:").removeprefix("inet:")


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
