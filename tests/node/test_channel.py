"""The channel between the processes of a node: only what a table of shapes allows gets through."""

import contextlib
import gc
import json
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw.node import channel
from mdmw.node.channel import Channel, ChannelError, Ended, pair

UUID = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
NETWORK = ["network", UUID]
BIND = ["169.254.169.254", 80, None]
TABLES = {
    "to-preloader": channel.TO_PRELOADER,
    "from-preloader": channel.FROM_PRELOADER,
    "to-worker": channel.TO_WORKER,
    "from-worker": channel.FROM_WORKER,
    "from-planner": channel.FROM_PLANNER,
    "to-converge": channel.TO_CONVERGE,
    "from-converge": channel.FROM_CONVERGE,
    "to-control": channel.TO_CONTROL,
    "from-control": channel.FROM_CONTROL,
}


@pytest.fixture(autouse=True, scope="module")
def _collected() -> None:
    """Sockets that earlier tests left are closed here, and not while descriptors are counted."""
    gc.collect()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, its = pair()
    with ours, its:
        ours.settimeout(5)
        yield ours, its


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_message_and_its_descriptors(ends) -> None:
    """Fields arrive as they were, descriptors as new ones that no program started later inherits."""
    ours, its = ends
    with open("/dev/null") as file:
        Channel(its, {}).send("add", [file.fileno()], key=7, scope=NETWORK, on_link=True)
        message = Channel(ours, channel.TO_WORKER).receive()
        assert (message.kind, message.fields) == ("add", {"key": 7, "scope": NETWORK, "on_link": True})
        [descriptor] = message.descriptors
        assert os.fstat(descriptor).st_rdev == os.fstat(file.fileno()).st_rdev
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


def test_the_end(ends) -> None:
    ours, its = ends
    its.close()
    with pytest.raises(Ended):
        Channel(ours, channel.TO_WORKER).receive()


_ADD = {"kind": "add", "key": 1, "scope": NETWORK, "on_link": True}
_ATTACH = {"kind": "attach", "name": UUID, "pid": 1, "scope": NETWORK, "binds": [BIND]}
_PLACES = {"kind": "places", "state": "/var/lib/x", "neutron_dhcp": None, "firewall": "nftables"}


@pytest.mark.parametrize(
    ("table", "message", "descriptors"),
    [
        ("to-worker", "no json", 0),
        ("to-worker", b"\xff\xfe", 0),
        ("to-worker", "[" * 50_000, 0),
        ("to-worker", "[]", 0),
        ("to-worker", {}, 0),
        ("to-worker", {"kind": None}, 0),
        ("to-worker", {"kind": ["add"]}, 0),
        ("to-worker", {"kind": "other"}, 0),
        ("to-worker", {"kind": "drain", "more": 1}, 0),
        ("to-worker", {"kind": "drain"}, 1),
        ("to-worker", _ADD, 0),
        ("to-worker", _ADD, 2),
        ("to-worker", _ADD, 20),
        ("to-worker", _ADD | {"key": -1}, 1),
        ("to-worker", _ADD | {"key": True}, 1),
        ("to-worker", _ADD | {"key": 1.0}, 1),
        ("to-worker", _ADD | {"key": 10**30}, 1),
        ("to-worker", _ADD | {"scope": ["host", UUID]}, 1),
        ("to-worker", _ADD | {"scope": ["network", "x"]}, 1),
        ("to-worker", _ADD | {"scope": "network"}, 1),
        ("to-worker", _ADD | {"on_link": 1}, 1),
        ("from-worker", {"kind": "ready", "namespace": "qdhcp-x"}, 0),
        ("from-worker", {"kind": "ready"}, 1),
        ("from-worker", {"kind": "attach"}, 0),
        ("from-worker", {"kind": "counts", "counts": [[1, 2]]}, 0),
        ("from-worker", {"kind": "counts", "counts": [[1, 2, "3"]]}, 0),
        ("from-worker", {"kind": "counts", "counts": [[1, 2, 3]] * 1001}, 0),
        ("from-preloader", {"kind": "refused", "why": "a\nb"}, 0),
        ("from-preloader", {"kind": "refused", "why": "\x1b[2J"}, 0),
        ("to-control", _ATTACH, 1),
        ("to-control", _ATTACH | {"name": ".."}, 2),
        ("to-control", _ATTACH | {"name": "a/b"}, 2),
        ("to-control", _ATTACH | {"name": ""}, 2),
        ("to-control", _ATTACH | {"binds": [["10.0.0.1", 80, None]]}, 2),
        ("to-control", _ATTACH | {"binds": [["169.254.169.254", 0, None]]}, 2),
        ("to-control", _ATTACH | {"binds": [["169.254.169.254", 65536, None]]}, 2),
        ("to-control", _ATTACH | {"binds": [["fe80::a9fe:a9fe", 80, None]]}, 2),
        ("to-control", _ATTACH | {"binds": [["fe80::a9fe:a9fe", 80, "a/b"]]}, 2),
        ("to-control", _ATTACH | {"binds": [["fe80::a9fe:a9fe", 80, "x" * 16]]}, 2),
        ("to-control", _ATTACH | {"binds": [BIND] * 5}, 2),
        ("from-planner", {"kind": "take-over"}, 0),
        ("from-planner", {"kind": "listen", "listeners": []}, 0),
        ("from-planner", {"kind": "plan"}, 0),
        ("from-planner", _PLACES | {"state": "var/lib"}, 0),
        ("from-planner", _PLACES | {"neutron_dhcp": ""}, 0),
        ("from-planner", _PLACES | {"firewall": "ufw"}, 0),
        ("from-converge", {"kind": "listen", "listeners": [["../x", BIND, NETWORK]]}, 0),
        ("from-converge", {"kind": "listen", "listeners": [["n", BIND]]}, 0),
        ("from-converge", {"kind": "report", "actions": 0, "waiting": -1}, 0),
    ],
)
def test_what_is_not_allowed(ends, table: str, message, descriptors: int) -> None:
    """One error, of one line, and no descriptor stays open."""
    ours, its = ends
    data = json.dumps(message) if isinstance(message, dict) else message
    data = data.encode() if isinstance(data, str) else data
    before = open_descriptors()
    if descriptors:
        socket.send_fds(its, [data], [its.fileno()] * descriptors)
    else:
        its.send(data)
    with pytest.raises(ChannelError) as error:
        Channel(ours, TABLES[table]).receive()
    assert not isinstance(error.value, Ended)
    assert "\n" not in str(error.value)
    assert open_descriptors() == before


def test_a_message_that_is_too_long(ends) -> None:
    ours, its = ends
    its.send(b'{"kind":"drain"}' + b" " * 70_000)
    with pytest.raises(ChannelError, match="too long"):
        Channel(ours, channel.TO_WORKER).receive()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_KINDS = sorted({kind for table in TABLES.values() for kind in table})
_FIELDS = sorted({name for table in TABLES.values() for shape in table.values() for name in shape.fields})


@given(
    table=st.sampled_from(sorted(TABLES)),
    message=st.binary(max_size=200)
    | st.dictionaries(st.sampled_from([*_FIELDS, "kind"]), _JSON | st.sampled_from(_KINDS), max_size=6),
    descriptors=st.integers(0, 5),
)
def test_garbage(table: str, message, descriptors: int) -> None:
    """Nothing but a message of the table, or a `ChannelError`, comes out of any bytes and descriptors."""
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    ours, its = pair()
    before = open_descriptors()
    with ours, its:
        ours.settimeout(5)
        socket.send_fds(its, [data or b"x"], [its.fileno()] * descriptors)
        found = None
        with contextlib.suppress(ChannelError):
            found = Channel(ours, TABLES[table]).receive()
        if found:
            shape = TABLES[table][found.kind]
            assert found.fields.keys() == shape.fields.keys()
            assert len(found.descriptors) == shape.descriptors
            for descriptor in found.descriptors:
                os.close(descriptor)
        assert open_descriptors() == before


def test_a_field_with_the_name_of_an_argument(ends) -> None:
    """`name` and `kind` of Python's own calls do not get in the way."""
    ours, its = ends
    Channel(its, {}).send("detach", name=UUID)
    assert Channel(ours, channel.TO_CONTROL).receive().fields == {"name": UUID}
