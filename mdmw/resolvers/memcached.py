"""memcached as a `Store` of the shared cache; needs the extra `mdmw[memcached]`."""

import zlib
from collections.abc import Sequence
from typing import Any

from pymemcache import MemcacheError, PooledClient

_POOL_IDLE = 60  # seconds


class MemcachedStore:
    """A `Store` with one pool of connections for each server. Values are bytes and never unpickled.

    `urls` are HOST:PORT or the paths of unix sockets. `timeout` and `expire` are seconds. Raises
    ValueError for a wrong address.
    """

    most_bytes = 1_000_000  # memcached takes 1 MiB, with the name

    def __init__(self, urls: Sequence[str], timeout: float, expire: int) -> None:
        self._expire = expire
        self._clients = [
            PooledClient(url, connect_timeout=timeout, timeout=timeout, pool_idle_timeout=_POOL_IDLE)
            for url in urls
        ]

    def get(self, name: str) -> bytes | None:
        """See `Store`."""
        try:
            value: bytes | None = self._client(name).get(name)
        except (MemcacheError, IndexError) as error:
            raise ConnectionError(f"memcached: {error or type(error).__name__}") from None
        return value

    def set(self, name: str, value: bytes) -> None:
        """See `Store`."""
        try:
            self._client(name).set(name, value, expire=self._expire, noreply=False)
        except (MemcacheError, IndexError, ValueError) as error:
            raise ConnectionError(f"memcached: {error or type(error).__name__}") from None

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def _client(self, name: str) -> Any:
        return self._clients[zlib.crc32(name.encode()) % len(self._clients)]
