"""Helpers of the tests of `Upstream`."""

import contextlib
import tempfile
import threading

from peers import peers_in

from mdmw.errors import Overloaded
from mdmw.upstream.exchange import Limits, Stream, Upstream

#: Short enough to wait for, long enough for a busy machine.
SHORT = 0.2

QUICK = {"connect_timeout": 5.0, "read_timeout": 5.0, "total_timeout": 10.0, "queue_timeout": 5.0}


def upstream(*addresses, tls=None, **limits):
    """An `Upstream` over peers or addresses."""
    found = [getattr(address, "address", address) for address in addresses]
    return Upstream(found, Limits(**(QUICK | limits)), tls)


@contextlib.contextmanager
def facing(transport, *scripts, **limits):
    """An upstream and its peer for one example of a property."""
    with tempfile.TemporaryDirectory(prefix="mdmw") as directory, peers_in(directory) as peers:
        peer = peers.of(transport, *scripts)
        asked = upstream(peer, **limits)
        try:
            yield asked, peer
        finally:
            close_kept(asked)


def ask(asked, method="GET", target="/", headers=(), body=b""):
    """The answer, read whole."""
    answer = asked.exchange(method, target, list(headers), body)
    try:
        text = b"".join(answer.body) if isinstance(answer.body, Stream) else answer.body
    finally:
        answer.close()
    return answer.status, dict(answer.headers), text


def free_slots(asked):
    """How many slots can be taken at once; gives them back."""
    slots, taken = asked._slots, 0
    try:
        while True:
            slots.acquire(0)
            taken += 1
    except Overloaded:
        for _ in range(taken):
            slots.release()
    return taken


def close_kept(asked):
    """Close what is kept, as the end of a process does."""
    for idle in asked._idle.values():
        while idle:
            idle.pop().close()


class Asking(threading.Thread):
    """A request in a thread of its own; `outcome` is what `ask` returned or raised."""

    def __init__(self, asked, *args, **kwargs):
        super().__init__(daemon=True)
        self._call = lambda: ask(asked, *args, **kwargs)
        self.outcome = None
        self.start()

    def run(self):
        try:
            self.outcome = self._call()
        except Exception as error:
            self.outcome = error

    def result(self, patience=20):
        self.join(patience)
        assert not self.is_alive()
        return self.outcome
