"""The planner: reads a file, a database or Neutron, and sends a plan to the keeper when the plan has changed.

The keeper starts this program as a user without privileges, and checks each message. The program ends with
the keeper.
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

from mdmw.errors import ConfigError, MdmwError
from mdmw.identity import drop_all_privileges
from mdmw.node import settings
from mdmw.node.channel import Channel, ChannelError, as_line
from mdmw.node.plan import dumps, plan
from mdmw.node.settings import NodeSettings
from mdmw.observe.logs import log_to_stderr

_LOOK_EVERY = 1.0  # seconds between two looks at whether the source has changed
_CONFIRM_EVERY = 60.0  # seconds until the keeper is told again that a file has not changed
_NO_DIGEST = bytes(hashlib.sha256().digest_size)
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def main() -> int:
    """Read the options, give up all privileges, and plan until the keeper has ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--poll-interval", type=float, required=True)
    parser.add_argument("options", nargs="*", metavar="NAME=VALUE")
    arguments = parser.parse_args()
    channel = Channel(socket.socket(fileno=arguments.channel), {})
    log_to_stderr()
    try:
        node = _load(dict(word.split("=", 1) for word in arguments.options))
    except ConfigError as error:
        channel.send("refused", why=as_line(str(error)))
        return 2
    places = node.places
    neutron_dhcp = None if places.neutron_dhcp is None else str(places.neutron_dhcp)
    with contextlib.suppress(ChannelError, BrokenPipeError, ConnectionResetError):  # the keeper has ended
        channel.send("places", state=str(places.state), neutron_dhcp=neutron_dhcp, firewall=places.firewall)
        drop_all_privileges()
        _Planning(node, channel).run(arguments.poll_interval)
    return 0


def _load(options: dict[str, str]) -> NodeSettings:
    node = settings.load(options)
    for path in (node.places.state, node.places.neutron_dhcp or node.places.state, node.watched):
        if not path.is_absolute():
            raise ConfigError(f"node: {path}: an absolute path is allowed")
    return node


class _Planning:
    """Plans again and again. Raises `ChannelError` and OSError when the keeper has ended."""

    def __init__(self, node: NodeSettings, channel: Channel) -> None:
        self._node = node
        self._channel = channel
        # The digest of the plan that was sent last. The memory is shared with children, which write it too.
        self._sent_digest = mmap.mmap(-1, len(_NO_DIGEST))

    def run(self, poll_interval: float) -> None:
        """Send a plan, wait until the source has changed or `poll_interval` seconds are over, and repeat."""
        seen: Hashable = None
        while True:
            before, seen = seen, self._node.look()
            if self._node.is_polled:
                self._send_plan()
                gc.collect()  # the answers of Neutron are a large part of this process
            elif seen == before and self._sent_digest[:] != _NO_DIGEST:
                self._channel.send("same")
            else:
                _in_a_child(self._send_plan)
            until = time.monotonic() + (poll_interval if self._node.is_polled else _CONFIRM_EVERY)
            while time.monotonic() < until and self._node.look() == seen:
                if select.select([self._channel.sock], [], [], _LOOK_EVERY)[0]:
                    self._channel.receive()

    def _send_plan(self) -> None:
        try:
            text = dumps(plan(self._node.view(), self._node.options)).encode()
        except MdmwError as error:
            self._sent_digest[:] = _NO_DIGEST
            self._channel.send("trouble", why=as_line(str(error)))
            return
        digest = hashlib.sha256(text).digest()
        if digest == self._sent_digest[:]:
            self._channel.send("same")
            return
        descriptor = _sealed_file(text)
        try:
            self._channel.send("plan", [descriptor])
        finally:
            os.close(descriptor)
        self._sent_digest[:] = digest


def _in_a_child(work: Callable[[], None]) -> None:
    """Do `work` in a child process: what reading a file takes in memory goes away with the child."""
    child = os.fork()
    if child == 0:
        work()
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(1)


def _sealed_file(text: bytes) -> int:
    """A descriptor of a file in memory with this content, which no process can change; raises OSError."""
    descriptor = os.memfd_create("mdmw-plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(text)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
