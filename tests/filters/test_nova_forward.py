"""nova-forward: what goes to Nova, and every answer of Nova as the guest sees it (1.2-1.6, S-3, S-4)."""

import logging
import threading
import time

import pytest
from certificates import Authority
from forwarding import INSTANCE_ID, NETWORK, OTHER_PROOF, PROOF, PROVEN, close_kept, free_slots, nova
from guest import Seen, call, environ
from peers import Gate, answers, dripping, echo, hang_up, once, reset, response, silent, then_hold

from mdmw.errors import BackendError, ConfigError
from mdmw.filters import nova_forward
from mdmw.records import PROOFS

PLAIN = "Content-Type: text/plain"
ROTATING = PROVEN | {PROOFS: (PROOF, OTHER_PROOF)}


def ask(app, *args, **kwargs):
    return call(app, *args, **(PROVEN | kwargs))


# --- the request ------------------------------------------------------------------------


def test_what_nova_gets(peers, forward):
    """1.2, column H4; W-1: built from scratch, by an allow-list."""
    peer = peers.tcp(answers(response("200 OK", b"x", PLAIN)))
    guest = [
        *[("User-Agent", "cloud-init"), ("Accept", "*/*"), ("If-None-Match", '"1"'), ("Cookie", "c")],
        *[
            ("Accept-Encoding", "gzip"),
            ("X-aws-ec2-metadata-token", "t"),
            ("Connection", "close"),
            ("Host", "guest"),
        ],
        *[("X-Instance-ID", "forged"), ("X-Tenant-ID", "forged"), ("X_Instance_ID_Signature", "forged")],
        *[("X-Metadata-Provider", "forged"), ("Forwarded", "for=1.2.3.4"), ("X-Forwarded-For", "1.2.3.4")],
        *[("X-Neutron-Network-ID", NETWORK), ("Expect", "100-continue"), ("Transfer-Encoding", "chunked")],
    ]
    ask(forward(nova, peer), headers=guest, **{"wsgi.input_terminated": True})
    assert peer.requests[0].headers == [
        ("Host", peer.address.authority),
        ("User-Agent", "cloud-init"),
        ("Accept", "*/*"),
        ("If-None-Match", '"1"'),
        ("Accept-Encoding", "identity"),
        *PROOF,
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("target", ["/", "/a%3Fb%2Fc?d=e%26f", "//x/../y", "/\xe9"])
def test_method_and_target_are_relayed_unchanged(peers, forward, method, target):
    """W-6, W-7."""
    peer = peers.unix(answers(response("200 OK", b"", PLAIN)))
    ask(forward(nova, peer), method, target)
    assert peer.requests[0].line == f"{method} {target} HTTP/1.1"


def test_a_password_arrives_whole(peers, forward):
    """W-8: G3 sent it empty."""
    peer = peers.unix(answers(response("200 OK", b"", PLAIN)))
    ask(forward(nova, peer), "POST", "/openstack/2013-10-17/password", body=b"secret" * 150)
    assert peer.requests[0].body == b"secret" * 150
    assert peer.requests[0].value("Content-Length") == "900"


def test_a_long_body_is_refused_before_nova_is_asked(peers, forward):
    """W-9: 413."""
    peer = peers.unix(echo)
    assert ask(forward(nova, peer, max_body="10"), "POST", body=b"x" * 11).status == 413
    assert peer.connections == 0


# --- the answer: table 1.6 --------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299])
def test_2xx_pass(peers, forward, status):
    peer = peers.unix(answers(response(f"{status} Words of Nova", b"\x00\xff", PLAIN)))
    reply = ask(forward(nova, peer))
    assert (reply.line, reply.body) == (f"{status} Words of Nova", b"\x00\xff")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308, 399])
def test_3xx_are_not_followed(peers, forward, status):
    """S-4: the signed headers go nowhere else. 502."""
    elsewhere = peers.tcp(echo)
    location = f"Location: http://{elsewhere.address.authority}/"
    peer = peers.unix(answers(response(f"{status} Elsewhere", b"see there", location)))
    reply = ask(forward(nova, peer))
    assert (reply.status, reply.value("Location")) == (502, None)
    assert elsewhere.connections == 0
    assert b"see there" not in reply.body


def test_304_passes(peers, forward):
    """W-16: it is the answer to If-None-Match, and has no body."""
    peer = peers.unix(answers(b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n'))
    reply = ask(forward(nova, peer), headers=[("If-None-Match", '"1"')])
    assert (reply.status, reply.body, reply.value("ETag"), reply.value("Content-Length")) == (
        304,
        b"",
        '"1"',
        None,
    )


@pytest.mark.parametrize("status", [400, 401, 404, 405, 409, 410, 413, 415, 418, 429, 451, 499])
def test_4xx_pass_with_novas_body(peers, forward, status):
    """400, 404, 409 (password set), 429 and the rest."""
    peer = peers.unix(
        answers(response(f"{status} So", b"<html>Nova's</html>", "Content-Type: text/html", "Allow: GET"))
    )
    reply = ask(forward(nova, peer))
    assert (reply.line, reply.body) == (f"{status} So", b"<html>Nova's</html>")
    assert (reply.value("Content-Type"), reply.value("Allow")) == ("text/html", "GET")


def test_403_is_ours_and_an_alarm(peers, forward, caplog):
    """Fixed body; ERROR with the instance id, never the signature."""
    peer = peers.unix(answers(response("403 Forbidden", b"expected: 5ecret", PLAIN)))
    reply = ask(forward(nova, peer))
    assert reply.status == 403
    assert b"5ecret" not in reply.body
    assert INSTANCE_ID.encode() not in reply.body
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert INSTANCE_ID in record.getMessage()
    assert "signed-by-one" not in caplog.text
    assert "5ecret" not in caplog.text


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 505, 507, 599])
def test_5xx_keep_their_code_but_not_their_body(peers, forward, caplog, status):
    """Nova's own words go to the log."""
    peer = peers.unix(
        answers(response(f"{status} Bad", b"Traceback: nova-7.internal", "Content-Type: text/html"))
    )
    reply = ask(forward(nova, peer))
    assert reply.status == status
    assert b"nova-7" not in reply.body
    assert "nova-7.internal" in caplog.text
    assert reply.value("Retry-After") == ("1" if status == 503 else None)
    assert reply.value("X-Openstack-Request-Id") in caplog.text


@pytest.mark.parametrize(
    ("sent", "seen"), [("120", "120"), ("Fri, 31 Dec 1999 23:59:59 GMT",) * 2, (" 7 ", "7")]
)
def test_retry_after_is_kept(peers, forward, sent, seen):
    for status in ("503 Busy", "429 Slow down", "500 Broken"):
        peer = peers.unix(answers(response(status, b"", PLAIN, f"Retry-After: {sent}")))
        assert ask(forward(nova, peer)).value("Retry-After") == seen


def test_a_folded_retry_after(peers, forward):
    peer = peers.unix(answers(response("503 Busy", b"", PLAIN, "Retry-After: 1\r\n 2")))
    assert ask(forward(nova, peer)).status in (502, 503)


@pytest.mark.parametrize("status", [600, 777, 999])
def test_a_status_that_is_none(peers, forward, status):
    peer = peers.unix(answers(response(f"{status} What", b"x" * 600_000, PLAIN)))
    app = forward(nova, peer)
    assert ask(app).status == 502
    assert free_slots(app) == 128


@pytest.mark.parametrize("where", ["refusing", "absent"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nova_is_away(peers, forward, where, method, caplog):
    """503 + Retry-After: 1."""
    address = getattr(peers, where)()
    reply = ask(forward(nova, address), method)
    assert (reply.status, reply.value("Retry-After")) == (503, "1")
    assert str(address) in caplog.text
    assert address.host.encode() not in reply.body or not address.host
    assert b"unix" not in reply.body


def test_a_name_that_nobody_knows(forward):
    """1.6: DNS is a connect error."""
    app = nova_forward.app_factory({}, nova_metadata_host="nova.invalid")
    reply = ask(app)
    assert (reply.status, reply.value("Retry-After")) == (503, "1")
    assert b"invalid" not in reply.body


@pytest.mark.parametrize("script", [hang_up, reset, once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n")])
@pytest.mark.parametrize(("method", "status"), [("GET", 503), ("HEAD", 503), ("POST", 502), ("PUT", 502)])
def test_nova_dies_in_the_middle(peers, forward, script, method, status):
    """On purpose not 502 for what may be asked again: cloud-init gives up for good on 502."""
    reply = ask(forward(nova, peers.tcp(script)), method)
    assert (reply.status, reply.value("Retry-After")) == (status, "1" if status == 503 else None)


@pytest.mark.parametrize(("method", "status"), [("GET", 503), ("POST", 502)])
def test_nova_dies_in_the_body(peers, forward, method, status):
    cut = once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    assert ask(forward(nova, peers.tcp(cut)), method).status == status


@pytest.mark.parametrize("script", [silent, dripping(response("200 OK", b"x" * 100), 0.05)])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nova_is_slow(peers, forward, script, method):
    """504 after nova_timeout."""
    began = time.monotonic()
    reply = ask(forward(nova, peers.unix(script), nova_timeout="0.2", nova_total_timeout="0.4"), method)
    assert reply.status == 504
    assert 0.2 <= time.monotonic() - began < 2


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 20x OK\r\n\r\n"])
def test_nova_speaks_something_else(peers, forward, data):
    assert ask(forward(nova, peers.unix(once(data)))).status == 502


def test_the_next_address_of_several(peers, forward):
    """3.4."""
    living = peers.tcp(answers(response("200 OK", b"living", PLAIN)))
    app = forward(nova, peers.refusing(), living)
    for method in ("GET", "POST"):
        assert ask(app, method).body == b"living"


# --- headers and bodies of the answer ---------------------------------------------------


def test_response_headers(peers, forward):
    """W-12: an allow-list; the length is made anew."""
    passed = [
        *["Content-Type: text/plain; charset=x", "Content-Language: de", 'ETag: "1"', "Last-Modified: then"],
        *["Cache-Control: no-store", "Expires: 0", "Retry-After: 1", "Allow: GET", "Location: /x"],
        *["X-aws-ec2-metadata-token-ttl-seconds: 60"],
    ]
    dropped = [
        *[
            "Server: nova-7",
            "Set-Cookie: a=b",
            "Date: now",
            "Keep-Alive: 5",
            "Via: proxy",
            "X-Compute-Request-Id: r",
        ],
        *["X-Openstack-Request-Id: req-nova", "Connection: keep-alive", "Strict-Transport-Security: x"],
    ]
    peer = peers.unix(answers(response("200 OK", b"body", *passed, *dropped)))
    reply = ask(forward(nova, peer))
    assert [f"{name}: {value}" for name, value in reply.headers] == [*passed, "Content-Length: 4"]


@pytest.mark.parametrize(
    "reason", ["OK\rSet-Cookie: stolen", "OK\x00x", "\x1b[31m", "\tOK\t", "\xe9t\xe9", "", "  "]
)
def test_a_reason_cannot_split_the_response(peers, forward, reason):
    """What the upstream calls its status goes into the status line of the guest's response."""
    peer = peers.unix(answers(response(f"200 {reason}", b"x", PLAIN)))
    reply = ask(forward(nova, peer))
    assert reply.status == 200 or (reply.status == 502 and not reason.isprintable())
    assert not set(reply.line) & {chr(code) for code in [*range(32), 127]}
    assert len(reply.line) > 4


@pytest.mark.parametrize(
    "header", ["ETag: a\r\n X-Evil: b", "ETag: a\r X-Evil: b", "ETag: a\x00X-Evil: b", "ETag: \x1bb"]
)
def test_a_header_cannot_split_the_response(peers, forward, header):
    reply = ask(forward(nova, peers.unix(answers(response("200 OK", b"x", PLAIN, header)))))
    assert reply.status in (200, 502)
    assert reply.value("X-Evil") is None
    for _, value in reply.headers:
        assert not set(value) & {chr(code) for code in [*range(32), 127]}


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_an_empty_200(peers, forward, framing):
    """W-15: `public-ipv4` without a floating IP."""
    data = {
        "length": response("200 OK", b"", PLAIN),
        "chunked": f"HTTP/1.1 200 OK\r\n{PLAIN}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
        "close": f"HTTP/1.1 200 OK\r\n{PLAIN}\r\nConnection: close\r\n\r\n".encode(),
    }[framing]
    reply = ask(forward(nova, peers.unix(once(data))))
    assert (reply.status, reply.body, reply.value("Content-Length")) == (200, b"", "0")


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_head(peers, forward, status):
    """W-16: the length that Nova reported, and no body."""
    peer = peers.unix(answers(f"HTTP/1.1 {status}\r\n{PLAIN}\r\nContent-Length: 4711\r\n\r\n".encode()))
    reply = ask(forward(nova, peer), "HEAD")
    assert (reply.status, reply.body, reply.value("Content-Length")) == (int(status[:3]), b"", "4711")


def test_head_of_an_error(peers, forward):
    peer = peers.unix(answers(b"HTTP/1.1 500 Broken\r\nContent-Length: 4711\r\n\r\n"))
    reply = ask(forward(nova, peer), "HEAD")
    assert (reply.status, reply.body) == (500, b"")


def test_204(peers, forward):
    peer = peers.unix(answers(b"HTTP/1.1 204 No Content\r\n\r\n"))
    reply = ask(forward(nova, peer))
    assert (reply.status, reply.body, reply.value("Content-Length")) == (204, b"", None)


# --- large bodies -----------------------------------------------------------------------

LARGE = bytes(range(256)) * 4096


def test_a_large_body_is_streamed_and_holds_its_slot(peers, forward):
    """W-17, and overload: until the server closes it."""
    app = forward(nova, peers.unix(answers(response("200 OK", LARGE, PLAIN))), nova_max_connections="2")
    chunks = app(environ(**PROVEN), lambda *_: None)
    assert free_slots(app) == 1
    assert b"".join(chunks) == LARGE
    chunks.close()
    assert free_slots(app) == 2


@pytest.mark.parametrize("with_reset", [False, True])
def test_a_large_body_that_is_cut_raises(peers, forward, with_reset):
    """W-17: so that the server closes the guest's connection instead of ending the body cleanly."""
    app = forward(nova, peers.tcp(once(response("200 OK", LARGE, PLAIN)[:600_000], reset=with_reset)))
    chunks = app(environ(**PROVEN), lambda *_: None)
    if isinstance(chunks, list) or not hasattr(chunks, "close"):
        assert b"metadata service" in b"".join(chunks)  # the reset came before streaming began
        return
    with pytest.raises(BackendError):
        b"".join(chunks)
    chunks.close()
    assert free_slots(app) == 128


def test_a_guest_that_goes_away(peers, forward):
    """Servers close what they do not read to its end."""
    app = forward(nova, peers.unix(answers(response("200 OK", LARGE, PLAIN))), nova_max_connections="1")
    for _ in range(3):
        chunks = app(environ(**PROVEN), lambda *_: None)
        next(iter(chunks))
        chunks.close()
    assert free_slots(app) == 1


def test_a_server_that_refuses_the_headers(peers, forward):
    """start_response may raise; then nobody ever closes the body."""

    def refuses(*_):
        raise ValueError("this server dislikes a header")

    app = forward(nova, peers.unix(answers(response("200 OK", LARGE, PLAIN))), nova_max_connections="1")
    with pytest.raises(ValueError, match="dislikes"):
        app(environ(**PROVEN), refuses)
    assert free_slots(app) == 1


# --- rotation ---------------------------------------------------------------------------


def by_signature(good):
    """Nova: 403 unless the signature is `good`."""

    def script(conversation):
        while received := conversation.request():
            fits = received.value("X-Instance-ID-Signature") == good
            conversation.send(response("200 OK" if fits else "403 Forbidden", received.body, PLAIN))

    return script


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_the_next_secret_after_a_403(peers, forward, method):
    """S-3: sign with the first, on 403 once with the next; the body is sent again whole."""
    peer = peers.unix(by_signature("signed-by-two"))
    body = b"pass\x00word" if method in ("POST", "PUT") else b""
    reply = ask(forward(nova, peer), method, "/x?y", body=body, **ROTATING)
    assert reply.status == 200
    assert [received.value("X-Instance-ID-Signature") for received in peer.requests] == [
        "signed-by-one",
        "signed-by-two",
    ]
    assert [received.body for received in peer.requests] == [body, body]
    assert {received.line for received in peer.requests} == {f"{method} /x?y HTTP/1.1"}


def test_the_first_secret_suffices(peers, forward):
    peer = peers.unix(by_signature("signed-by-one"))
    assert ask(forward(nova, peer), **ROTATING).status == 200
    assert len(peer.requests) == 1


def test_both_secrets_refused(peers, forward):
    peer = peers.unix(by_signature("neither"))
    app = forward(nova, peer)
    assert ask(app, **ROTATING).status == 403
    assert len(peer.requests) == 2
    assert free_slots(app) == 128


@pytest.mark.parametrize(
    "status", ["400 Bad", "401 Who", "404 Not Found", "500 Broken", "503 Busy", "302 There"]
)
def test_only_a_403_asks_again(peers, forward, status):
    peer = peers.unix(answers(response(status, b"", PLAIN)))
    ask(forward(nova, peer), **ROTATING)
    assert len(peer.requests) == 1


def test_a_large_403_gives_its_slot_back_first(peers, forward):
    """Else a request would wait for itself."""
    peer = peers.unix(answers(response("403 No", LARGE, PLAIN)), answers(response("200 OK", b"x", PLAIN)))
    app = forward(nova, peer, nova_max_connections="1", nova_queue_timeout="0.2")
    assert ask(app, **ROTATING).status == 200


# --- overload ---------------------------------------------------------------------------


def test_the_rest_gets_503_at_once(peers, forward):
    """1.6, and with Retry-After."""
    gate = Gate(response("200 OK", b"through", PLAIN))
    app = forward(nova, peers.unix(gate), nova_max_connections="2", nova_max_waiting="0")
    replies = []
    served = [threading.Thread(target=lambda: replies.append(ask(app))) for _ in range(2)]
    for thread in served:
        thread.start()
    gate.wait_for(2)
    began = time.monotonic()
    refused = [ask(app) for _ in range(10)]
    assert time.monotonic() - began < 1
    assert {(reply.status, reply.value("Retry-After")) for reply in refused} == {(503, "1")}
    gate.open()
    for thread in served:
        thread.join()
    assert [reply.body for reply in replies] == [b"through"] * 2
    assert free_slots(app) == 2


# --- TLS --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"), "ca")


def test_https(peers, forward, ca):
    """3.4: CA bundle, client certificate."""
    cert, key = ca.issue("agent.example")
    peer = peers.tcp(answers(response("200 OK", b"x", PLAIN)), tls=ca.server("127.0.0.1", clients=ca.file))
    assert ask(forward(nova, peer, auth_ca_cert=ca.file)).status in (502, 503)
    reply = ask(forward(nova, peer, auth_ca_cert=ca.file, nova_client_cert=cert, nova_client_priv_key=key))
    assert reply.body == b"x"


def test_https_without_trust(peers, forward, ca):
    peer = peers.tcp(answers(response("200 OK", b"x", PLAIN)), tls=ca.server("127.0.0.1"))
    assert ask(forward(nova, peer)).status == 503
    assert peer.requests == []
    assert ask(forward(nova, peer, nova_metadata_insecure="true")).status == 200


# --- place in a pipeline ----------------------------------------------------------------


def test_without_a_proof():
    """Nothing is sent; a defect of the pipeline is a 500 of ours."""
    assert call(nova_forward.app_factory({}, nova_metadata_host="127.0.0.1:1")).status == 500


def test_as_a_filter(peers):
    """Proven requests go to Nova, the others to the next application."""
    peer = peers.unix(answers(response("200 OK", b"nova", PLAIN)))
    app = nova_forward.filter_factory({}, nova_metadata_host=str(peer.address))(Seen())
    assert call(app).body == b"seen"
    assert call(app, **PROVEN).body == b"nova"
    close_kept(app._terminal)


def test_provider_proofs_without_an_instance(peers, forward, caplog):
    """3.3: the log then names the source."""
    peer = peers.unix(answers(response("403 No", b"", PLAIN)))
    proven = {key: value for key, value in PROVEN.items() if key != "mdmw.instance"}
    assert call(forward(nova, peer), **proven).status == 403
    assert "10.0.0.5" in caplog.text


# --- configuration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"nova_metadata_host": "http://x"}, ["nova_metadata_host", "'http://x'", "allowed"]),
        ({"nova_metadata_host": ""}, ["nova_metadata_host", "at least one"]),
        ({"nova_metadata_host": "a:0"}, ["nova_metadata_host", "'a:0'"]),
        ({"nova_metadata_port": "0"}, ["nova_metadata_port", "0"]),
        ({"nova_metadata_port": "65536"}, ["nova_metadata_port", "65536", "65535"]),
        ({"nova_metadata_protocol": "ftp"}, ["nova_metadata_protocol", "ftp", "https"]),
        ({"nova_client_cert": "/c"}, ["nova_client_priv_key", "go together"]),
        ({"nova_client_priv_key": "/k"}, ["nova_client_cert", "go together"]),
        ({"nova_metadata_protocol": "https", "auth_ca_cert": "/no/ca"}, ["auth_ca_cert", "/no/ca"]),
        (
            {"nova_metadata_protocol": "https", "nova_client_cert": "/no/c", "nova_client_priv_key": "/no/k"},
            ["nova_client_cert"],
        ),
        ({"nova_timeout": "9", "nova_total_timeout": "8"}, ["nova_timeout", "9", "nova_total_timeout", "8"]),
        ({"nova_timeout": "0"}, ["nova_timeout", "0.01"]),
        ({"nova_timeout": "1e12"}, ["nova_timeout", "86400"]),
        ({"nova_max_connections": "0"}, ["nova_max_connections", "1"]),
        ({"nova_max_waiting": "-1"}, ["nova_max_waiting", "0"]),
        ({"max_body": "-1"}, ["max_body", "0"]),
        ({"nova_host": "x"}, ["nova_host", "unknown", "nova_metadata_host"]),
    ],
)
@pytest.mark.parametrize("factory", [nova_forward.app_factory, nova_forward.filter_factory])
def test_bad_configuration(options, names, factory):
    with pytest.raises(ConfigError) as error:
        factory({}, **options)
    text = str(error.value)
    assert text.startswith("nova-forward: ")
    assert "\n" not in text
    assert [name for name in names if name not in text] == []


def test_an_old_name():
    """5: nova_metadata_ip."""
    app = nova_forward.app_factory({}, nova_metadata_ip="192.0.2.1")
    assert [address.host for address in app._upstream._addresses] == ["192.0.2.1"]


def test_nothing_is_logged_of_proofs_and_bodies(peers, forward, caplog):
    with caplog.at_level(logging.DEBUG):
        for script in (
            hang_up,
            silent,
            once(b"junk\r\n\r\n"),
            answers(response("500 No", b"x")),
            then_hold(b"HTTP/1.1"),
        ):
            for method in ("GET", "POST"):
                app = forward(nova, peers.unix(script), nova_timeout="0.05", nova_total_timeout="0.05")
                ask(app, method, body=b"pa55word" if method == "POST" else b"", **ROTATING)
                assert "signed-by-one" not in repr(app) + repr(vars(app))
    assert caplog.records
    for secret in ("signed-by-one", "signed-by-two", "pa55word"):
        assert secret not in caplog.text


def test_s_3_s_4_both_secrets_share_one_budget(peers, forward):
    """S-3, S-4: the second try after a 403 has what the first has left, not a budget of its own."""

    def refuse_late(conversation):
        while conversation.request():
            time.sleep(0.6)  # how slow this peer is
            conversation.send(response("403 Forbidden", b""))

    slow = forward(nova, peers.tcp(refuse_late), nova_timeout="1", nova_total_timeout="1")
    assert call(slow, **ROTATING).status == 504
