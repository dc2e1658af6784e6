"""The listening sockets that the keeper holds."""

import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mdmw.node import namespaces
from mdmw.node.namespaces import Bind
from mdmw.records import Scope

LOG = logging.getLogger(__name__)

#: The owner of what the plan wants; others are attachments.
PLAN = "plan"
#: A network's listeners have this port; where a router is served by one, guests come through it.
_DHCP_SIDE = 80


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket. `inode` is its namespace's; `namespace` is empty when that has no name."""

    namespace: str
    inode: int
    bind: Bind
    scope: Scope
    owner: str
    sock: socket.socket = field(repr=False)
    since: float = field(default_factory=time.time)

    @property
    def on_link(self) -> bool:
        """Whether guests reach it without a router between, so that their MAC is their own.

        They do not on a metadata access network (spec 4.9).
        """
        return not (self.scope.kind == "router" and self.bind.port == _DHCP_SIDE)

    def __str__(self) -> str:
        return f"{self.scope}, {self.bind} in {self.namespace or 'an unnamed namespace'}"

    def why_stale(self) -> str:
        """Why it is of no more use; empty when it is."""
        if self.namespace and namespaces.named_inode(self.namespace) != self.inode:
            return "its namespace is gone"
        if self.bind.device and not namespaces.has_its_device(self.sock):
            return f"its device {self.bind.device} is gone"
        return ""


class Listeners:
    """All of them, by key; `changed` is called with each key that comes or goes."""

    def __init__(self, changed: Callable[[int], None]) -> None:
        self.by_key: dict[int, Listener] = {}
        self._changed = changed
        self._keys = itertools.count(1)

    def __len__(self) -> int:
        return len(self.by_key)

    def __iter__(self) -> Iterator[Listener]:
        return iter(list(self.by_key.values()))

    def open(self, namespace: str, binds: Sequence[Bind], scope: Scope, owner: str) -> None:
        """Listen in a named namespace, at all of `binds` or none; raises OSError."""
        descriptor = namespaces.open_namespace(namespace)
        try:
            self.open_in(descriptor, namespace, binds, scope, owner)
        finally:
            os.close(descriptor)

    def open_in(
        self, descriptor: int, namespace: str, binds: Sequence[Bind], scope: Scope, owner: str
    ) -> None:
        """The same by a descriptor of the namespace."""
        inode = namespaces.namespace_inode(descriptor)
        for bind, sock in zip(binds, namespaces.listen_in(descriptor, binds), strict=True):
            self.adopt(Listener(namespace, inode, bind, scope, owner, sock))

    def adopt(self, listener: Listener) -> None:
        """Take one that is open already."""
        key = next(self._keys)
        self.by_key[key] = listener
        self._changed(key)

    def close(self, owner: str, is_wanted: Callable[[Listener], bool] = lambda _: False) -> None:
        """Close those of an owner that are not wanted."""
        for key, listener in list(self.by_key.items()):
            if listener.owner == owner and not is_wanted(listener):
                self._close(key)

    def close_stale(self, keys: Iterable[int]) -> bool:
        """Close those of `keys` whose namespace or device is gone, a line each; True if there are any."""
        stale = [(key, why) for key in keys if key in self.by_key and (why := self.by_key[key].why_stale())]
        for key, why in stale:
            LOG.warning("%s: no longer listened to: %s", self.by_key[key], why)
            self._close(key)
        return bool(stale)

    def _close(self, key: int) -> None:
        listener = self.by_key.pop(key)
        self._changed(key)
        with contextlib.suppress(OSError):
            # In the workers too, and at once: the address is free, whatever they do.
            listener.sock.shutdown(socket.SHUT_RDWR)
        listener.sock.close()
