"""Answers over netlink with lengths that cannot be: each reader ends, with what it has or with an error."""

import socket
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw import netlink
from mdmw.boundary.peer import neighbour_mac

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class Kernel:
    """A socket whose other end sends the same answer to each question."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, size: int) -> bytes:
        return self._answer[:size]


def message(kind: int, body: bytes, length: int | None = None) -> bytes:
    return _HEADER.pack(16 + len(body) if length is None else length, kind, 0, 1, 0) + body


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def answer(data: bytes) -> None:
        monkeypatch.setattr(netlink, "connect", lambda *_: Kernel(data))

    return answer


@pytest.mark.parametrize("length", [0, 1, 3])
def test_an_attribute_that_is_shorter_than_its_head_is_the_end(length: int) -> None:
    """A length of zero would be read for ever."""
    good = netlink.attribute(2, b"\x02\x00\x00\x00\x00\x01")
    assert netlink.attributes(good + _ATTRIBUTE.pack(length, 2) + good, 0) == {2: b"\x02\x00\x00\x00\x00\x01"}


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_message_that_is_shorter_than_its_head_is_an_error(
    answers: Callable[[bytes], None], length: int
) -> None:
    answers(message(24, b"", length))
    with pytest.raises(OSError, match="impossible length"):
        netlink.dump(socket.NETLINK_ROUTE, 26, b"", bytes)
    with pytest.raises(OSError, match="impossible length"):
        netlink.ask(socket.NETLINK_ROUTE, 26, b"")


@pytest.mark.parametrize("data", [b"", b"x" * 15, message(2, b""), message(2, b"\x01")])
def test_an_answer_that_is_cut_off_is_an_error(answers: Callable[[bytes], None], data: bytes) -> None:
    answers(data)
    with pytest.raises(OSError):
        netlink.ask(socket.NETLINK_ROUTE, 26, b"")


def test_a_neighbour_whose_attribute_has_no_length_is_unknown(answers: Callable[[bytes], None]) -> None:
    """source-identify asks for neighbours while a guest waits."""
    answers(message(28, bytes(12) + _ATTRIBUTE.pack(0, 2) + bytes(8)))
    assert neighbour_mac("192.0.2.1") is None


@given(st.binary(max_size=100))
def test_a_neighbour_in_any_bytes(body: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netlink, "connect", lambda *_: Kernel(message(28, body)))
        mac = neighbour_mac("192.0.2.1")
    assert mac is None or len(mac) == 17
