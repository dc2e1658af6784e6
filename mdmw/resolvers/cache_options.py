"""The options of the cache in front of a resolver, and the cache that they ask for."""

import logging
import time
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg

from mdmw.errors import ConfigError
from mdmw.options import refuse
from mdmw.resolvers.caching import CacheLimits, Caching
from mdmw.resolvers.contract import Resolver
from mdmw.resolvers.shared import DirectoryStore, ProcessGroup, SharedCache, group_directory

LOG = logging.getLogger(__name__)

_MEMORY, _MEMCACHED = "dogpile.cache.memory", "dogpile.cache.pymemcache"
# Names of oslo.cache in Neutron's files. mdmw has one client for all of memcached's names.
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
        help="Whether mdmw remembers which instance has an address, instead of asking the resolver for each "
        "request. Default: enabled in the group [cache] of a config_file, or else true. A resolver that "
        "answers from memory is never cached.",
    ),
    cfg.FloatOpt(
        "cache_expiration_time",
        min=0,
        help="Seconds for which mdmw remembers which instance has an address. Default: expiration_time in "
        "the group [cache] of a config_file, or else 10.",
    ),
    cfg.FloatOpt(
        "cache_negative_time",
        default=1.0,
        min=0,
        max=1,
        help="Seconds for which mdmw remembers that an address belongs to no instance.",
    ),
    cfg.FloatOpt(
        "cache_idle_time",
        default=5.0,
        min=0,
        help="Seconds. An address that sent nothing for this long may belong to another guest, so mdmw asks "
        "the resolver again. Not for guests whose MAC mdmw has seen.",
    ),
    cfg.FloatOpt(
        "cache_stale_if_error",
        default=30.0,
        min=0,
        help="Seconds for which mdmw uses an expired answer for GET and HEAD while the resolver cannot be "
        "asked.",
    ),
    cfg.IntOpt(
        "cache_max_entries",
        default=10_000,
        min=100,
        help="Number of answers that one process remembers at most.",
    ),
    cfg.StrOpt(
        "cache_backend",
        choices=[
            (_MEMORY, "answers are in memory, and shared with the worker processes of the same server"),
            (_MEMCACHED, "agents on several hosts share answers in memcached; needs mdmw[memcached]"),
        ],
        help="Where mdmw keeps answers. Default: backend in the group [cache] of a config_file, or memory.",
    ),
    cfg.MultiStrOpt(
        "cache_backend_argument",
        default=[],
        help="NAME:VALUE for memcached. url: HOST:PORT, [IPV6]:PORT or the path of a unix socket, several "
        "with commas between them (default localhost:11211). socket_timeout: seconds (default 0.5).",
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
    """`resolver` behind the cache that the options ask for, if any; raises `ConfigError`."""
    if not remembers(resolver, settings):
        return resolver
    neutron = _of_neutron(settings)
    limits = CacheLimits(
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
        shared = SharedCache(DirectoryStore(group.directory, keep), time.monotonic)
    else:
        shared = None
    return Caching(resolver, limits, shared, group)


def remembers(resolver: Resolver | type[Resolver], settings: SimpleNamespace) -> bool:
    """Whether the answers of a resolver are cached."""
    enabled: bool = _first(settings.cache_enabled, _of_neutron(settings).enabled, True)
    return enabled and not getattr(resolver, "cheap", False)


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


def _group(settings: SimpleNamespace) -> ProcessGroup | None:
    directory = group_directory(settings.place)
    return None if directory is None else ProcessGroup(directory)


def _backend(settings: SimpleNamespace, neutron: SimpleNamespace) -> str:
    if settings.cache_backend:
        name = settings.cache_backend
    else:
        name = neutron.backend or _MEMORY
        name = _OTHER_NAMES.get(name, name)
        if name not in (_MEMORY, _MEMCACHED):
            LOG.warning(
                "%s: mdmw does not support the [cache] backend %s; each process keeps its answers in memory",
                settings.place,
                name,
            )
            name = _MEMORY
    if name == _MEMCACHED and find_spec("pymemcache") is None:
        raise refuse(settings, "cache_backend", f"{name} needs pymemcache: install mdmw[memcached]")
    return str(name)


def _through_memcached(settings: SimpleNamespace, neutron: SimpleNamespace, keep: float) -> SharedCache:
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
    from mdmw.resolvers.memcached import MemcachedStore  # an extra

    try:
        return SharedCache(MemcachedStore(urls, timeout, int(keep) + 1), time.time, _CLOCKS_DIFFER)
    except ValueError as error:
        raise refuse(settings, "cache_backend_argument", f"url {', '.join(urls)}: {error}") from None


def _server(text: str) -> str:
    """The address of a server; oslo.cache also allows `inet6:[::1]:11211`."""
    return text.removeprefix("inet6:").removeprefix("inet:")


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
