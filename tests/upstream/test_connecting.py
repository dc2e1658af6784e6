"""Several addresses, fail-over, cool-down, connect timeouts (S-4, spec 1.6 and 3.4)."""

import logging
import socket
import threading
import time

import pytest
from exchanging import SHORT, ask, free_slots
from peers import answers, hang_up, response

from mdmw.errors import BackendLost, Unavailable
from mdmw.upstream import connection
from mdmw.upstream.address import Address


def named(name):
    return answers(response("200 OK", name.encode()))


def dead(peers):
    """One address of each kind that cannot be connected to."""
    bound = socket.socket(socket.AF_UNIX)
    address = peers.absent()
    bound.bind(address.path)
    bound.close()
    return {
        "refused": peers.refusing(),
        "no such socket": peers.absent(),
        "nobody at the socket": address,
        "no such host": Address("http", "host.invalid", 80),
        "not a name": Address("http", "a" * 70 + ".invalid", 80),
    }


@pytest.mark.parametrize(
    "kind", ["refused", "no such socket", "nobody at the socket", "no such host", "not a name"]
)
def test_nobody_there(peers, upstream, kind):
    """1.6: Nova refused or DNS fails, agent socket absent or refused -> unavailable, for every method."""
    asked = upstream(dead(peers)[kind])
    for method in ("GET", "POST"):
        with pytest.raises(Unavailable) as error:
            ask(asked, method)
        assert not isinstance(error.value, BackendLost)
        assert error.value.retry_after == 1
    assert free_slots(asked) == 128


@pytest.mark.parametrize(
    "kind", ["refused", "no such socket", "nobody at the socket", "no such host", "not a name"]
)
def test_the_next_address_is_tried(peers, upstream, kind):
    """Also for POST: nothing has been sent yet."""
    living = peers.unix(named("living"))
    for method in ("GET", "POST"):
        asked = upstream(dead(peers)[kind], living)
        assert ask(asked, method, body=b"x")[2] == b"living"


def test_the_first_address_is_preferred(peers, upstream):
    first, second = peers.unix(named("first")), peers.unix(named("second"))
    asked = upstream(first, second)
    for method in ("GET", "POST", "GET", "POST"):
        assert ask(asked, method)[2] == b"first"
    assert second.connections == 0


def test_only_connect_errors_move_on(peers, upstream):
    """Once a request was sent, another address must not get it too."""
    second = peers.unix(named("second"))
    with pytest.raises(Unavailable):
        ask(upstream(peers.unix(hang_up), second))
    with pytest.raises(BackendLost):
        ask(upstream(peers.unix(hang_up), second), "POST")
    assert second.connections == 0


def attempts(monkeypatch):
    """The addresses that are connected to, in order."""
    made, real = [], connection._open

    def noted(address, *args):
        made.append(address)
        return real(address, *args)

    monkeypatch.setattr(connection, "_open", noted)
    return made


def test_an_address_that_failed_is_asked_last_for_a_while(peers, upstream, monkeypatch, caplog):
    """Cool-down: the next requests do not stumble over the dead one, and the log says it once."""
    down, second = peers.refusing(), peers.unix(named("second"))
    made = attempts(monkeypatch)
    asked = upstream(down, second, cooldown=60.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert ask(asked, "POST")[2] == b"second"
    assert made.count(down) == 1
    assert len([record for record in caplog.records if str(down) in record.getMessage()]) == 1


def test_after_the_cool_down_it_is_asked_first_again(peers, upstream):
    down, second = peers.absent(), peers.unix(named("second"))
    asked = upstream(down, second, cooldown=0.05)
    assert ask(asked, "POST")[2] == b"second"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(down.path)
        listener.listen()
        threading.Event().wait(0.06)
        serving = threading.Thread(target=answer_one, args=(listener,), daemon=True)
        serving.start()
        assert ask(asked, "POST")[2] == b"back"
        serving.join()


def answer_one(listener):
    sock, _ = listener.accept()
    with sock:
        sock.recv(65536)
        sock.sendall(response("200 OK", b"back", "Connection: close"))


def test_a_cooling_address_is_still_better_than_none(peers, upstream, monkeypatch):
    """All failed a moment ago: they are all asked, nothing is refused unasked."""
    made = attempts(monkeypatch)
    down = [peers.refusing(), peers.absent()]
    asked = upstream(*down, cooldown=60.0)
    for _ in range(2):
        with pytest.raises(Unavailable):
            ask(asked)
    assert len(made) == 4


def test_a_failed_address_loses_its_kept_connections(peers, upstream):
    first, second = peers.unix(named("first")), peers.unix(named("second"))
    asked = upstream(first, second)
    assert ask(asked)[2] == b"first"
    asked._failed(first.address, "as if the next connect had failed")
    first.wait_until(lambda peer: peer.closed == 1)
    assert ask(asked)[2] == b"second"


# --- time -------------------------------------------------------------------------------


def test_the_connect_timeout(peers, upstream):
    asked = upstream(peers.unreachable(), connect_timeout=SHORT)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        ask(asked)
    assert SHORT <= time.monotonic() - began < 2


def test_the_total_budget_covers_fail_over(peers, upstream):
    """Three black holes with 1 s each, but 0.3 s for it all."""
    asked = upstream(*(peers.unreachable() for _ in range(3)), connect_timeout=1.0, total_timeout=0.3)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        ask(asked)
    assert time.monotonic() - began < 0.9


def test_fail_over_from_a_black_hole(peers, upstream):
    living = peers.tcp(named("living"))
    assert ask(upstream(peers.unreachable(), living, connect_timeout=SHORT))[2] == b"living"


def test_a_name_with_a_dead_address_first(peers, upstream, monkeypatch):
    """S-4: several addresses of one name are tried in turn; the first one does not use up the time."""
    hole, living = peers.unreachable(), peers.tcp(named("living"))

    def two_addresses(host, port, **_):
        assert (host, port) == ("nova.example", 8775)
        found = [(address.host, address.port) for address in (hole, living.address)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", target) for target in found]

    monkeypatch.setattr(connection.socket, "getaddrinfo", two_addresses)
    asked = upstream(Address("http", "nova.example", 8775), connect_timeout=1.0)
    began = time.monotonic()
    assert ask(asked)[2] == b"living"
    assert time.monotonic() - began < 0.9


def test_ipv6(peers, upstream):
    """LP#1796593: brackets in the Host header, none for the socket."""
    peer = peers.tcp(named("six"), host="::1")
    assert ask(upstream(peer))[2] == b"six"
    assert peer.requests[0].value("Host") == f"[::1]:{peer.address.port}"


def test_a_full_backlog_of_a_unix_socket_is_waited_for(peers, upstream):
    """TCP waits by itself; a unix socket says EAGAIN at once, and a boot storm would get 503."""
    with socket.socket(socket.AF_UNIX) as listener:
        address = peers.absent()
        listener.bind(address.path)
        listener.listen(0)
        fillers = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address.path)

        def serve():
            for _ in range(1):
                listener.accept()[0].close()
            answer_one(listener)

        serving = threading.Timer(0.1, serve)
        serving.daemon = True
        serving.start()
        assert ask(upstream(address))[2] == b"back"
        serving.join()
        for filler in fillers:
            filler.close()


def test_a_backlog_that_stays_full(peers, upstream):
    with socket.socket(socket.AF_UNIX) as listener:
        address = peers.absent()
        listener.bind(address.path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as filler:
            filler.connect(address.path)
            began = time.monotonic()
            with pytest.raises(Unavailable):
                ask(upstream(address, connect_timeout=SHORT))
            assert SHORT / 2 <= time.monotonic() - began < 2


def test_no_socket_is_left_open(peers, upstream):
    """Every failed attempt closes what it opened: a ResourceWarning would fail this test."""
    import gc

    asked = upstream(*dead(peers).values(), peers.unreachable(), connect_timeout=0.02)
    for _ in range(3):
        with pytest.raises(Unavailable):
            ask(asked)
    gc.collect()
