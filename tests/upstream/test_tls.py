"""TLS to Nova: names, chains, versions, client certificates (spec 3.4, S-4)."""

import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings

import pytest
from certificates import Authority
from exchanging import SHORT, ask, free_slots
from peers import answers, echo, hang_up, once, response, silent, then_hold

from mdmw.errors import BackendError, BackendLost, BackendSlow, Unavailable
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import BUFFER_LIMIT
from mdmw.upstream.tls import client_context

FINE = answers(response("200 OK", b"fine"))


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"), "ca")


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"), "other")


def test_a_good_certificate(peers, upstream, ca):
    peer = peers.tcp(FINE, tls=ca.server("127.0.0.1"))
    asked = upstream(peer, tls=client_context(ca.file))
    assert [ask(asked)[2] for _ in range(3)] == [b"fine"] * 3
    assert peer.connections == 1


def test_the_server_name_is_the_configured_host(peers, upstream, ca):
    """`server name = nova_metadata_host`: sent, and compared with the certificate."""
    asked_for = []
    context = ca.server("localhost")
    context.sni_callback = lambda _sock, name, _context: asked_for.append(name)
    peer = peers.tcp(FINE, tls=context)
    address = Address("https", "localhost", peer.address.port)
    assert ask(upstream(address, tls=client_context(ca.file)))[2] == b"fine"
    assert asked_for == ["localhost"]
    assert peer.requests[0].value("Host") == f"localhost:{address.port}"


def bad_servers(ca, other_ca):
    return {
        "wrong name": ca.server("nova.example"),
        "expired": ca.server("127.0.0.1", expired=True),
        "untrusted": other_ca.server("127.0.0.1"),
    }


@pytest.mark.parametrize("kind", ["wrong name", "expired", "untrusted"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_bad_certificate(peers, upstream, ca, other_ca, kind, method):
    """Nothing of the request is sent to who cannot prove its name."""
    peer = peers.tcp(FINE, tls=bad_servers(ca, other_ca)[kind])
    asked = upstream(peer, tls=client_context(ca.file))
    with pytest.raises(Unavailable, match="certificate verify failed"):
        ask(asked, method, body=b"x")
    assert peer.requests == []
    assert free_slots(asked) == 128


@pytest.mark.parametrize("kind", ["wrong name", "expired", "untrusted"])
def test_insecure_takes_any(peers, upstream, ca, other_ca, kind):
    """`nova_metadata_insecure` wins over `auth_ca_cert`."""
    peer = peers.tcp(FINE, tls=bad_servers(ca, other_ca)[kind])
    assert ask(upstream(peer, tls=client_context(ca.file, insecure=True)))[2] == b"fine"


def test_without_a_ca_file_the_systems_are_used(peers, upstream, ca):
    with pytest.raises(Unavailable, match="certificate verify failed"):
        ask(upstream(peers.tcp(FINE, tls=ca.server("127.0.0.1")), tls=client_context()))


def test_a_fail_over_from_a_bad_certificate(peers, upstream, ca, other_ca):
    bad = peers.tcp(FINE, tls=other_ca.server("127.0.0.1"))
    good = peers.tcp(FINE, tls=ca.server("127.0.0.1"))
    assert ask(upstream(bad, good, tls=client_context(ca.file)))[2] == b"fine"


@pytest.mark.parametrize("newest", ["TLSv1", "TLSv1_1"])
def test_old_versions_are_refused(peers, upstream, ca, newest):
    """S-4: TLS 1.2 or newer."""
    context = ca.server("127.0.0.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion[newest]
    context.set_ciphers("ALL:@SECLEVEL=0")
    peer = peers.tcp(FINE, tls=context)
    with pytest.raises(Unavailable, match=r"(?i)version|protocol"):
        ask(upstream(peer, tls=client_context(ca.file)))
    assert peer.requests == []


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_new_versions_are_taken_and_kept(peers, upstream, ca, version):
    """Session tickets of TLS 1.3, which arrive unasked, do not count as speaking out of turn."""
    context = ca.server("127.0.0.1")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    peer = peers.tcp(FINE, tls=context)
    asked = upstream(peer, tls=client_context(ca.file))
    for _ in range(4):
        assert ask(asked)[2] == b"fine"
    assert peer.connections == 1


# --- client certificates ----------------------------------------------------------------


def test_a_client_certificate_is_shown(peers, upstream, ca, other_ca):
    peer = peers.tcp(FINE, tls=ca.server("127.0.0.1", clients=other_ca.file))
    cert, key = other_ca.issue("agent.example")
    assert ask(upstream(peer, tls=client_context(ca.file, False, cert, key)))[2] == b"fine"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("shown", [False, True], ids=["none", "of a stranger"])
def test_a_missing_or_wrong_client_certificate(peers, upstream, ca, other_ca, version, shown):
    context = ca.server("127.0.0.1", clients=other_ca.file)
    context.maximum_version = ssl.TLSVersion[version]
    peer = peers.tcp(FINE, tls=context)
    asked = upstream(peer, tls=client_context(ca.file, False, *(ca.issue("agent.example") if shown else ())))
    with pytest.raises((Unavailable, BackendError)):
        ask(asked)
    assert peer.requests == []
    assert free_slots(asked) == 128


def test_an_encrypted_key_is_refused_not_asked_for(ca):
    """OpenSSL would ask for the passphrase on the terminal, or read it from standard input."""
    cert, key = ca.issue("agent.example", password=b"hunter2")
    code = f"from mdmw.upstream.tls import client_context; client_context(None, False, {cert!r}, {key!r})"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        input=b"hunter2\n",
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    assert b"SSLError" in ended.stderr
    assert b"phrase" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_files_that_cannot_be_used(tmp_path, ca, content):
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError):
        client_context(str(path))
    cert, key = ca.issue("agent.example")
    with pytest.raises(OSError):
        client_context(None, False, str(path), key)
    with pytest.raises(OSError):
        client_context(None, False, cert, str(path))


def test_a_key_of_another_certificate(ca):
    with pytest.raises(OSError):
        client_context(None, False, ca.issue("a.example")[0], ca.issue("b.example")[1])


# --- peers that misbehave ---------------------------------------------------------------


def test_a_peer_that_speaks_plain_http(peers, upstream, ca):
    peer = peers.tcp(once(b"HTTP/1.1 400 Bad Request\r\n\r\n"), echo)
    address = Address("https", "127.0.0.1", peer.address.port)
    with pytest.raises(Unavailable):
        ask(upstream(address, tls=client_context(ca.file), connect_timeout=SHORT))


def test_a_peer_that_never_shakes_hands(upstream, ca):
    """The connect timeout covers the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = upstream(
            Address("https", *listener.getsockname()), tls=client_context(ca.file), connect_timeout=SHORT
        )
        began = time.monotonic()
        with pytest.raises(Unavailable):
            ask(asked)
        assert SHORT <= time.monotonic() - began < 1


def test_a_peer_that_drips_its_handshake(upstream, ca):
    """Every byte comes in time, the handshake never."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            sock, _ = listener.accept()
            with sock:
                for byte in b"\x16\x03\x03\x40\x00" + bytes(1000):
                    if done.wait(0.02):
                        return
                    try:
                        sock.send(bytes([byte]))
                    except OSError:
                        return

        dripping = threading.Thread(target=drip)
        dripping.start()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            ask(
                upstream(
                    Address("https", *listener.getsockname()),
                    tls=client_context(ca.file),
                    connect_timeout=SHORT,
                )
            )
        took = time.monotonic() - began
        done.set()
        dripping.join()
        assert took < 1


def test_a_silent_peer(peers, upstream, ca):
    asked = upstream(
        peers.tcp(silent, tls=ca.server("127.0.0.1")), tls=client_context(ca.file), read_timeout=SHORT
    )
    with pytest.raises(BackendSlow):
        ask(asked)


def test_a_dripping_peer(peers, upstream, ca):
    def drip(conversation):
        if conversation.request():
            conversation.drip(response("200 OK", b"x" * 100), 0.02)

    asked = upstream(
        peers.tcp(drip, tls=ca.server("127.0.0.1")), tls=client_context(ca.file), total_timeout=2 * SHORT
    )
    began = time.monotonic()
    with pytest.raises(BackendSlow):
        ask(asked)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(("method", "error"), [("GET", Unavailable), ("POST", BackendLost)])
def test_a_peer_that_hangs_up(peers, upstream, ca, method, error):
    """Without close_notify: an end of the TCP connection is no end of an answer."""
    asked = upstream(peers.tcp(hang_up, tls=ca.server("127.0.0.1")), tls=client_context(ca.file))
    with pytest.raises(error):
        ask(asked, method)


def test_a_body_without_length_needs_a_proper_end(peers, upstream, ca):
    """A body that ends with the connection is complete only if TLS says so; else anybody on the way
    could cut it."""
    data = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of "
    asked = upstream(peers.tcp(once(data), tls=ca.server("127.0.0.1")), tls=client_context(ca.file))
    with pytest.raises((Unavailable, BackendError)):
        ask(asked)


def test_a_kept_connection_that_died_is_replaced(peers, upstream, ca):
    peer = peers.tcp(once(response("200 OK", b"1")), FINE, tls=ca.server("127.0.0.1"))
    asked = upstream(peer, tls=client_context(ca.file))
    ask(asked)
    peer.wait_until(lambda peer: peer.closed == 1)
    assert ask(asked)[2] == b"fine"


def test_a_large_body(peers, upstream, ca):
    body = bytes(range(256)) * 4096
    asked = upstream(
        peers.tcp(answers(response("200 OK", body)), tls=ca.server("127.0.0.1")),
        tls=client_context(ca.file),
        max_connections=1,
    )
    for _ in range(2):
        assert ask(asked)[2] == body
    assert free_slots(asked) == 1


def test_a_large_body_that_stops(peers, upstream, ca):
    data = response("200 OK", bytes(9 * BUFFER_LIMIT))[: 5 * BUFFER_LIMIT]
    asked = upstream(
        peers.tcp(then_hold(data), tls=ca.server("127.0.0.1")),
        tls=client_context(ca.file),
        read_timeout=SHORT,
    )
    with pytest.raises((BackendError, BackendSlow)):
        ask(asked)
    assert free_slots(asked) == 128


def test_the_systems_key_log_is_not_written(peers, upstream, ca, monkeypatch, tmp_path):
    """S-4: nothing from the environment."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    ask(upstream(peers.tcp(FINE, tls=ca.server("127.0.0.1")), tls=client_context(ca.file)))
    assert not (tmp_path / "keys").exists()
