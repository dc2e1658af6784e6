"""The listening sockets that the keeper holds, and those among them that the plan asks for."""

import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mdmw.node import namespaces
from mdmw.node.loop import Loop
from mdmw.node.namespaces import Bind
from mdmw.records import Scope

LOG = logging.getLogger(__name__)

#: The owner of the listeners that the plan asks for. Every other owner is the name of an attachment.
PLAN = "plan"
#: Port of the listeners of a network. On a metadata access network a router's guests arrive here too.
_NETWORK_PORT = 80
_CHECK_EVERY = 1.8  # seconds between two checks of all listeners
#: Listeners that one step of a check looks at, and seconds until the next step. `mdmw-haproxy` waits for one
#: step only, not for a check of a thousand listeners.
_CHECKED_AT_ONCE, _STEP_PAUSE = 25, 0.005

#: The name of a namespace, and the bind within this namespace.
Endpoint = tuple[str, Bind]


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket.

    `inode` identifies the namespace. `namespace` is empty when the namespace has no name. `owner` is `PLAN`
    or the name of an attachment. `since` is in seconds since 1970.
    """

    namespace: str
    inode: int
    bind: Bind
    scope: Scope
    owner: str
    sock: socket.socket = field(repr=False)
    since: float = field(default_factory=time.time)

    @property
    def on_link(self) -> bool:
        """Whether guests reach the socket without a router, so that a packet carries the guest's own MAC.

        False on a metadata access network, where the guests are behind a router (spec 4.9).
        """
        return not (self.scope.kind == "router" and self.bind.port == _NETWORK_PORT)

    def __str__(self) -> str:
        return f"{self.scope}, {self.bind} in {self.namespace or 'an unnamed namespace'}"

    def why_stale(self) -> str:
        """Why no guest can reach the socket any more, as one line; empty while guests can."""
        if self.namespace and namespaces.named_inode(self.namespace) != self.inode:
            return "its namespace is gone"
        if self.bind.device and not namespaces.has_its_device(self.sock):
            return f"its device {self.bind.device} is gone"
        return ""


class Listeners:
    """All listeners of the keeper, by key. `changed` is called with the key of each that comes or goes."""

    def __init__(self, changed: Callable[[int], None]) -> None:
        self.by_key: dict[int, Listener] = {}
        self._changed = changed
        self._keys = itertools.count(1)

    def __len__(self) -> int:
        return len(self.by_key)

    def __iter__(self) -> Iterator[Listener]:
        return iter(list(self.by_key.values()))

    def open(self, namespace: str, binds: Sequence[Bind], scope: Scope, owner: str) -> None:
        """Listen in a named namespace, at all of `binds` or at none; raises OSError."""
        descriptor = namespaces.open_namespace(namespace)
        try:
            self.open_in(descriptor, namespace, binds, scope, owner)
        finally:
            os.close(descriptor)

    def open_in(
        self, descriptor: int, namespace: str, binds: Sequence[Bind], scope: Scope, owner: str
    ) -> None:
        """Listen as `open` does, in the namespace of `descriptor`, whose name is `namespace` or empty."""
        inode = namespaces.namespace_inode(descriptor)
        for bind, sock in zip(binds, namespaces.listen_in(descriptor, binds), strict=True):
            self.adopt(Listener(namespace, inode, bind, scope, owner, sock))

    def adopt(self, listener: Listener) -> None:
        """Hold a listener whose socket is open already."""
        key = next(self._keys)
        self.by_key[key] = listener
        self._changed(key)

    def close(self, owner: str, keep: Callable[[Listener], bool] = lambda _: False) -> None:
        """Close the listeners of `owner`, except where `keep` returns true."""
        for key, listener in list(self.by_key.items()):
            if listener.owner == owner and not keep(listener):
                self._close(key)

    def close_stale(self, keys: Iterable[int]) -> bool:
        """Close each listener of `keys` whose namespace or device is gone; whether there was one."""
        stale = [(key, why) for key in keys if key in self.by_key and (why := self.by_key[key].why_stale())]
        for key, why in stale:
            LOG.warning("%s: the listener is closed: %s", self.by_key[key], why)
            self._close(key)
        return bool(stale)

    def _close(self, key: int) -> None:
        listener = self.by_key.pop(key)
        self._changed(key)
        with contextlib.suppress(OSError):
            # The workers share the socket. After a shutdown the address is free, whatever a worker does.
            listener.sock.shutdown(socket.SHUT_RDWR)
        listener.sock.close()


class PlannedListeners:
    """Opens and closes listeners until they are those of the plan, and checks all listeners again and again.

    `may_act` says whether this keeper is the one that decides. `stale_closed` is called after a check has
    closed listeners whose namespace or device is gone.
    """

    def __init__(
        self,
        loop: Loop,
        listeners: Listeners,
        may_act: Callable[[], bool],
        stale_closed: Callable[[], None],
    ) -> None:
        #: What the plan asks for; None until a plan, or the keeper before this one, has said so.
        self.endpoints: Mapping[Endpoint, Scope] | None = None
        self._loop = loop
        self._listeners = listeners
        self._may_act = may_act
        self._stale_closed = stale_closed
        self._errors: dict[Endpoint, int | None] = {}

    @property
    def problems(self) -> list[str]:
        """One line for each endpoint of the plan where the kernel refused to listen."""
        return [
            f"{bind} in {namespace}: cannot listen: {os.strerror(number or 0)}"
            for (namespace, bind), number in self._errors.items()
        ]

    def listen_at(self, endpoints: Mapping[Endpoint, Scope]) -> None:
        """Listen at `endpoints`, and close every other listener that an earlier plan asked for."""
        self.endpoints = endpoints
        self._open_and_close()

    def start_checks(self) -> None:
        """Check all listeners every 1.8 seconds, beginning in 1.8 seconds."""
        self._loop.after(_CHECK_EVERY, self._check)

    def _check(self) -> None:
        """Try again what could not be opened; then look at all listeners, a few at a time."""
        if self._may_act():
            self._open_and_close()
        keys = list(self._listeners.by_key)
        self._check_steps([keys[i : i + _CHECKED_AT_ONCE] for i in range(0, len(keys), _CHECKED_AT_ONCE)])

    def _check_steps(self, steps: list[list[int]]) -> None:
        if not steps:
            self.start_checks()
            return
        first, *rest = steps
        if self._may_act() and self._listeners.close_stale(first):
            self._stale_closed()
            self._open_and_close()
        self._loop.after(_STEP_PAUSE, lambda: self._check_steps(rest))

    def _open_and_close(self) -> None:
        if self.endpoints is None:
            return
        endpoints = self.endpoints
        self._listeners.close(PLAN, lambda one: endpoints.get((one.namespace, one.bind)) == one.scope)
        are_open = {(one.namespace, one.bind) for one in self._listeners if one.owner == PLAN}
        errors = {}
        for (namespace, bind), scope in endpoints.items():
            if (namespace, bind) in are_open:
                continue
            try:
                self._listeners.open(namespace, [bind], scope, PLAN)
            except OSError as error:
                errors[namespace, bind] = error.errno
                if self._errors.get((namespace, bind)) != error.errno:
                    LOG.warning("%s, %s in %s: cannot listen: %s", scope, bind, namespace, error.strerror)
        self._errors = errors
