"""The planner of `mdmw-node`: reads what there is, from a file or from Neutron, and says what must be there.

The keeper starts it, as a user without privileges, and checks what it says. It ends with the keeper.
"""

import argparse
import contextlib
import fcntl
import gc
import hashlib
import mmap
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Hashable

from mdmw.cli.node import add_source, given
from mdmw.errors import ConfigError, MdmwError
from mdmw.identity import drop_all_privileges
from mdmw.node import settings
from mdmw.node.channel import Channel, ChannelError, as_line
from mdmw.node.plan import dumps, plan
from mdmw.node.settings import Node
from mdmw.observe.logs import log_to_stderr

_GLANCE = 1.0  # seconds between two looks at whether something has changed
_FILE_EVERY = 60.0  # seconds until the keeper is told that it has not changed
_NOTHING = bytes(hashlib.sha256().digest_size)
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def main() -> int:
    """Load, give up all power, and plan until the keeper is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--poll-interval", type=float, required=True)
    add_source(parser)
    arguments = parser.parse_args()
    channel = Channel(socket.socket(fileno=arguments.channel), {})
    log_to_stderr()
    try:
        node = _load(arguments)
    except ConfigError as error:
        channel.send("refused", why=as_line(str(error)))
        return 2
    places = node.places
    neutron_dhcp = None if places.neutron_dhcp is None else str(places.neutron_dhcp)
    with contextlib.suppress(ChannelError, BrokenPipeError, ConnectionResetError):  # the keeper has gone
        channel.send("places", state=str(places.state), neutron_dhcp=neutron_dhcp, firewall=places.firewall)
        drop_all_privileges()
        _Planning(node, channel).run(arguments.poll_interval)
    return 0


def _load(arguments: argparse.Namespace) -> Node:
    node = settings.load(given(arguments))
    for path in (node.places.state, node.places.neutron_dhcp or node.places.state, node.watched):
        if not path.is_absolute():
            raise ConfigError(f"node: {path}: an absolute path is allowed")
    return node


class _Planning:
    """What a planner does. Raises `ChannelError` and OSError when there is no keeper any more."""

    def __init__(self, node: Node, channel: Channel) -> None:
        self._node = node
        self._channel = channel
        self._said = mmap.mmap(-1, len(_NOTHING))  # a digest; children that read write it too

    def run(self, every: float) -> None:
        """Look, say what must be there, and wait until there may be something new."""
        seen: Hashable = None
        while True:
            before, seen = seen, self._node.look()
            if self._node.is_polled:
                self._say()
                gc.collect()  # what was read is a large part of this process
            elif seen == before and self._said[:] != _NOTHING:
                self._channel.send("same")
            else:
                _in_a_child(self._say)
            until = time.monotonic() + (every if self._node.is_polled else _FILE_EVERY)
            while time.monotonic() < until and self._node.look() == seen:
                if select.select([self._channel.sock], [], [], _GLANCE)[0]:
                    self._channel.receive()

    def _say(self) -> None:
        try:
            text = dumps(plan(self._node.view(), self._node.options)).encode()
        except MdmwError as error:
            self._said[:] = _NOTHING
            self._channel.send("trouble", why=as_line(str(error)))
            return
        digest = hashlib.sha256(text).digest()
        if digest == self._said[:]:
            self._channel.send("same")
            return
        descriptor = _sealed(text)
        try:
            self._channel.send("plan", [descriptor])
        finally:
            os.close(descriptor)
        self._said[:] = digest


def _in_a_child(work: Callable[[], None]) -> None:
    """To read a file takes several times the memory of all the rest; a child takes it along when it ends."""
    child = os.fork()
    if child == 0:
        work()
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(1)


def _sealed(text: bytes) -> int:
    """A file in memory that nobody can change."""
    descriptor = os.memfd_create("mdmw-plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.write(text)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
