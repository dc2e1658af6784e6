"""Helpers of the tests of the two forwards."""

import pytest
from peers import Peer

from mdmw.errors import Overloaded
from mdmw.filters import agent_forward, nova_forward
from mdmw.records import INSTANCE, PROOFS, SOURCE, Instance, Scope, Source

NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
INSTANCE_ID = "7c52af88-d14b-45ae-87cf-be154d8c8638"
PROOF = (
    ("X-Instance-ID", INSTANCE_ID),
    ("X-Instance-ID-Signature", "signed-by-one"),
    ("X-Forwarded-For", "10.0.0.5"),
)
OTHER_PROOF = (
    ("X-Instance-ID", INSTANCE_ID),
    ("X-Instance-ID-Signature", "signed-by-two"),
    ("X-Forwarded-For", "10.0.0.5"),
)

#: What the earlier stages leave in the environ.
PROVEN = {
    SOURCE: Source("10.0.0.5", Scope("network", NETWORK)),
    INSTANCE: Instance(INSTANCE_ID, "project", "port"),
    PROOFS: (PROOF,),
}


def place(peer):
    """A peer or an address as an operator writes it."""
    address = getattr(peer, "address", peer)
    return str(address) if address.scheme == "unix" else address.authority


def nova(*peers, **options):
    """nova-forward in front of these peers."""
    https = any(isinstance(peer, Peer) and peer.address.scheme == "https" for peer in peers)
    options.setdefault("nova_metadata_protocol", "https" if https else "http")
    return nova_forward.app_factory({}, nova_metadata_host=",".join(map(place, peers)), **options)


def agent(*peers, **options):
    """agent-forward in front of these peers."""
    return agent_forward.app_factory({}, agent_address=",".join(map(place, peers)), **options)


def free_slots(app):
    """How many requests a forward can carry at once; gives the slots back."""
    slots, taken = app._upstream._slots, 0
    while True:
        try:
            slots.acquire(0)
        except Overloaded:
            break
        taken += 1
    for _ in range(taken):
        slots.release()
    return taken


def close_kept(app):
    for idle in app._upstream._idle.values():
        while idle:
            idle.pop().close()


@pytest.fixture
def forward():
    """Makes forwards with `nova` or `agent`, and closes their kept connections after the test."""
    made = []

    def make(kind, *peers, **options):
        made.append(kind(*peers, **options))
        return made[-1]

    yield make
    for app in made:
        close_kept(app)
