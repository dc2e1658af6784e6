"""memcached as the place of a dogpile.cache region of bytes; needs the extra `mdmw[memcached]`."""

import zlib
from collections.abc import Mapping
from typing import Any

from dogpile.cache.api import NO_VALUE, CacheBackend
from pymemcache import MemcacheError, PooledClient


class Memcached(CacheBackend):
    """One connection pool for each server, with timeouts. Never pickles, whatever the server sends.

    dogpile's own backend for pymemcache has no timeout, and a connection for each thread.
    Arguments: `url` (list of host:port or unix socket paths), `timeout` and `expire` (seconds).
    Raises OSError for every fault.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        timeout = arguments["timeout"]
        self._expire = arguments["expire"]
        self._clients = [
            PooledClient(url, connect_timeout=timeout, timeout=timeout, pool_idle_timeout=60)
            for url in arguments["url"]
        ]

    def get(self, key: str) -> Any:
        try:
            value = self._client(key).get(key)
        except (MemcacheError, IndexError) as error:
            raise ConnectionError(f"memcached: {error or type(error).__name__}") from None
        return NO_VALUE if value is None else value

    def set(self, key: str, value: Any) -> None:
        try:
            self._client(key).set(key, value, expire=self._expire, noreply=False)
        except (MemcacheError, IndexError, ValueError) as error:
            raise ConnectionError(f"memcached: {error or type(error).__name__}") from None

    def _client(self, key: str) -> Any:
        return self._clients[zlib.crc32(key.encode()) % len(self._clients)]
