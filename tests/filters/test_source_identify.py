"""source-identify: who asks, in each of its modes; nothing a guest says counts (W-1 to W-5, 1.3, 1.7)."""

import json
import logging
import socket
import time

import pytest
from guest import Seen, call, connected, environ, send
from hypothesis import given
from hypothesis import strategies as st

from mdmw import wire
from mdmw.boundary.peer import netns_cookie
from mdmw.errors import ConfigError
from mdmw.filters import source_identify
from mdmw.filters.source_identify import filter_factory
from mdmw.records import SOURCE, Scope, Source
from mdmw.signing import Signer

NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
VICTIM = "8d1e7c1a-0b9a-4f0e-8f6e-2f1d5f0c9a11"
MAC = "52:54:00:de:5b:bf"
IDENTITY = [
    *[
        "X-Forwarded-For",
        "X-Neutron-Network-ID",
        "X-Neutron-Router-ID",
        "X-Quantum-Network-ID",
        "X-OVN-Network-ID",
    ],
    *[
        "X-Quantum-Router-ID",
        "X-Instance-ID",
        "X-Instance-ID-Signature",
        "X-Tenant-ID",
        "X-Metadata-Provider",
    ],
    *[
        "X-Metadata-Provider-Signature",
        "X-Mdmw-Client-MAC",
        "X-Mdmw-Relay-Signature",
        "Forwarded",
        "X-Real-IP",
    ],
]


def identify(**options):
    """The filter, and what comes after it."""
    seen = Seen()
    return filter_factory({}, **options)(seen), seen


def source(app_and_seen, *args, **kwargs):
    """The source that the next filter finds; None when the request ended here."""
    app, seen = app_and_seen
    before = len(seen.environs)
    status = call(app, *args, **kwargs).status
    if len(seen.environs) == before:
        assert status == 400, status
        return None
    assert status == 200
    return seen.last[SOURCE]


# --- fixed ------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "kind"), [("network_id", "network"), ("router_id", "router")])
def test_fixed(option, kind):
    found = source(identify(mode="fixed", **{option: NETWORK}))
    assert found == Source("10.0.0.5", Scope(kind, NETWORK))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("fe80::5054:ff:fede:5bbf%eth0", "fe80::5054:ff:fede:5bbf"),
        ("2001:DB8::5", "2001:db8::5"),
        *[
            (bad, None)
            for bad in ("", "x", "127.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "ff02::1", "localhost")
        ],
    ],
)
def test_the_address_is_that_of_the_peer(peer, address):
    """1.3: as the kernel says it, in its one spelling."""
    found = source(identify(mode="fixed", network_id=NETWORK), peer=peer)
    assert (found and found.address) == address


def test_no_peer_at_all():
    app, seen = identify(mode="fixed", network_id=NETWORK)
    made = environ()
    del made["REMOTE_ADDR"]
    assert send(app, made).status == 400
    assert seen.environs == []


def test_one_guest_whose_connection_does_not_show_its_address():
    found = source(identify(mode="fixed", network_id=NETWORK, address="::ffff:10.0.0.9"), peer="")
    assert found.address == "10.0.0.9"


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("spell", [str, str.lower, str.upper, lambda name: name.replace("-", "_")])
def test_forged_headers_change_nothing_and_go_no_further(name, spell):
    """W-1, W-2, W-5: a guest names a victim's network, address, instance."""
    pair = identify(mode="fixed", router_id=NETWORK)
    for headers in ([(spell(name), VICTIM)], [(name, "10.0.0.66"), (spell(name), VICTIM)]):
        found = source(pair, headers=headers)
        assert (found.address, found.scope, found.mac) == ("10.0.0.5", Scope("router", NETWORK), None)
        assert wire.environ_key(name) not in pair[1].last
        assert VICTIM not in str(
            {key: value for key, value in pair[1].last.items() if key.startswith("HTTP_")}
        )


def test_a_forged_record_of_an_outer_filter_does_not_count():
    """The record is written here and nowhere before."""
    forged = {SOURCE: Source("10.0.0.66", Scope("network", VICTIM))}
    assert source(identify(mode="fixed", network_id=NETWORK), **forged).scope.id == NETWORK
    app, _ = identify(mode="fixed", network_id=NETWORK)
    made = environ(peer="") | forged
    assert send(app, made).status == 400
    assert SOURCE not in made


def test_whether_somebody_on_the_guest_passes_requests_on():
    """7.6: only that there was an X-Forwarded-For."""
    pair = identify(mode="fixed", network_id=NETWORK)
    assert source(pair, headers=[("X-Forwarded-For", "")]).forwarded
    assert source(pair, headers=[("X-Forwarded-For", "a, b")]).forwarded
    assert not source(pair).forwarded


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"method": "TRACE"}, 405),
        ({"target": "/" + "a" * 9000}, 414),
        ({"headers": [("X-Big", "x" * 40_000)]}, 431),
        ({"target": "/a b"}, 400),
        ({"headers": [("Transfer-Encoding", "chunked")], "body": b"x"}, 400),
        ({"CONTENT_LENGTH": "1, 1"}, 400),
    ],
)
def test_requests_that_are_refused_here(request_, status):
    """W-6, W-7, W-9, W-10."""
    app, seen = identify(mode="fixed", network_id=NETWORK)
    made = environ(**request_)
    assert send(app, made, validate=False).status == status
    assert seen.environs == []


def test_connect_is_refused():
    """W-6."""
    app, _ = identify(mode="fixed", network_id=NETWORK)
    reply = send(app, environ("CONNECT", RAW_URI="host:80"), validate=False)
    assert (reply.status, "GET" in reply.value("Allow")) == (405, True)


def test_the_limits_are_options():
    app, _ = identify(mode="fixed", network_id=NETWORK, max_target="300", max_headers="1024")
    assert call(app, target="/" + "a" * 300).status == 414
    assert call(app, headers=[("X-A", "a" * 1024)]).status == 431


@pytest.mark.parametrize(
    "made", [{}, {"REQUEST_METHOD": ""}, {"REQUEST_METHOD": "GET"}, {"REMOTE_ADDR": "10.0.0.5"}]
)
def test_an_environ_with_holes(made):
    """uWSGI passes on what it could not parse."""
    app, seen = identify(mode="fixed", network_id=NETWORK)
    assert send(app, dict(made), validate=False).status == 400
    assert seen.environs == []


def test_nothing_of_the_refusal_is_disclosed():
    """1.8."""
    app, _ = identify(mode="fixed", network_id=NETWORK)
    body = call(app, peer="127.0.0.1").body
    assert NETWORK.encode() not in body
    assert b"127.0.0.1" not in body


# --- the MAC that the kernel saw --------------------------------------------------------


def test_client_mac(monkeypatch):
    """R-8: only when asked for, and never from a header."""
    asked = []
    monkeypatch.setattr(source_identify, "neighbour_mac", lambda address: asked.append(address) or MAC)
    pair = identify(mode="fixed", network_id=NETWORK, client_mac="true")
    forged = [("X-Mdmw-Client-MAC", "00:00:00:00:00:01")]
    assert source(pair, peer="fe80::1:2:3:4%eth0", headers=forged).mac == MAC
    assert source(pair, peer="10.0.0.5", headers=forged).mac == MAC
    assert asked == ["fe80::1:2:3:4", "10.0.0.5"]
    assert source(identify(mode="fixed", network_id=NETWORK), peer="fe80::1:2:3:4").mac is None


def test_a_neighbour_table_that_cannot_be_read(monkeypatch):
    def fails(_):
        raise PermissionError("no")

    monkeypatch.setattr(source_identify, "neighbour_mac", fails)
    app, _ = identify(mode="fixed", network_id=NETWORK, client_mac="true")
    reply = call(app, peer="fe80::1:2:3:4")
    assert (reply.status, reply.value("Retry-After")) == (503, "1")


# --- listener ---------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    """Writes a table of listeners and returns its path."""

    def write(entries):
        path = tmp_path / "listeners.json"
        path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
        return str(path)

    return write


@pytest.fixture
def connection():
    """The server's end of a connection to 127.0.0.1."""
    server, client = connected()
    with server, client:
        yield server


def keys_of(sock):
    host, port = sock.getsockname()[:2]
    return [f"netns:{netns_cookie(sock)}", f"{host}:{port}", f"port:{port}"]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_listener_known_by_its_socket(table, connection, which):
    """gunicorn gives the connection: namespace cookie, address and port, port alone."""
    key = keys_of(connection)[which]
    if key == "netns:None":
        pytest.skip("this kernel has no namespace cookies")
    pair = identify(mode="listener", listeners_file=table({key: {"router": NETWORK}}))
    assert source(pair, **{"gunicorn.socket": connection}).scope == Scope("router", NETWORK)


def test_the_most_certain_key_wins(table, connection):
    entries = {key: {"network": VICTIM} for key in keys_of(connection)[1:]}
    path = table(entries | {keys_of(connection)[0]: {"network": NETWORK}, "mine": {"router": NETWORK}})
    if netns_cookie(connection) is None:
        pytest.skip("this kernel has no namespace cookies")
    pair = identify(mode="listener", listeners_file=path)
    assert source(pair, **{"gunicorn.socket": connection}).scope == Scope("network", NETWORK)
    both = {"gunicorn.socket": connection, "mdmw.listener": "mine"}
    assert source(pair, **both).scope == Scope("router", NETWORK)


def test_waitress(table, connection):
    class Channel:
        socket = connection

        def check_client_disconnected(self):
            return False

    pair = identify(mode="listener", listeners_file=table({keys_of(connection)[1]: {"network": NETWORK}}))
    made = {"waitress.client_disconnected": Channel().check_client_disconnected}
    assert source(pair, **made).scope.id == NETWORK


def test_ipv6_listeners_are_bracketed(table):
    server, client = connected(("::1", 0))
    with server, client:
        key = f"[::1]:{server.getsockname()[1]}"
        pair = identify(mode="listener", listeners_file=table({key: {"network": NETWORK}}))
        assert source(pair, **{"gunicorn.socket": server}).scope.id == NETWORK


def test_ipv4_on_a_dual_stack_listener(table):
    """1.3: `bind ::` in router namespaces; the table has the address that guests use."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as _, listener.accept()[0] as server:
            pair = identify(
                mode="listener", listeners_file=table({f"127.0.0.1:{port}": {"network": NETWORK}})
            )
            found = source(pair, peer="::ffff:10.0.0.5", **{"gunicorn.socket": server})
    assert found == Source("10.0.0.5", Scope("network", NETWORK))


@pytest.mark.parametrize(
    ("software", "found"), [("Granian/2", True), ("uWSGI", False), ("gunicorn/23", False), ("", False)]
)
def test_server_port_counts_only_where_it_is_the_listeners(table, software, found):
    """Others copy it from the Host header, which the guest writes."""
    pair = identify(mode="listener", listeners_file=table({"port:9697": {"network": NETWORK}}))
    got = source(pair, SERVER_PORT="9697", SERVER_SOFTWARE=software, headers=[("Host", "x:9697")])
    assert (got is not None) is found


def test_what_the_server_puts_into_the_environ(table):
    """`mdmw.listener`; no header can have that name."""
    pair = identify(mode="listener", listeners_file=table({"one": {"network": NETWORK}}))
    assert source(pair, **{"mdmw.listener": "one"}).scope.id == NETWORK
    assert source(pair, headers=[("mdmw.listener", "one"), ("Mdmw-Listener", "one")]) is None


@pytest.mark.parametrize("with_table", [True, False])
def test_the_scope_that_the_server_tells(table, with_table):
    """1.7, W-5: `mdmw.listener_scope` counts before any table, and only as a record: no header is one."""
    entries = {"listeners_file": table({"one": {"network": VICTIM}})} if with_table else {}
    pair = identify(mode="listener", **entries)
    told = {"mdmw.listener_scope": Scope("router", NETWORK), "mdmw.listener": "one"}
    assert source(pair, **told).scope == Scope("router", NETWORK)
    assert source(pair, **{"mdmw.listener_scope": f"network {VICTIM}"}) is None
    forged = [("mdmw.listener_scope", VICTIM), ("Mdmw-Listener-Scope", f"network {VICTIM}")]
    assert source(pair, headers=forged) is None


def test_the_mac_that_the_server_tells():
    """R-8: of the connection; without it none, since the neighbours of this process may be other guests."""
    told = {"mdmw.listener_scope": Scope("network", NETWORK), "mdmw.listener_mac": lambda: MAC}
    pair = identify(mode="listener", client_mac="true")
    forged = [("X-Mdmw-Client-MAC", "00:00:00:00:00:01"), ("mdmw.listener_mac", "00:00:00:00:00:01")]
    assert source(pair, headers=forged, **told).mac == MAC
    del told["mdmw.listener_mac"]
    assert source(pair, peer="fe80::1:2:3:4", headers=forged, **told).mac is None
    told["mdmw.listener_mac"] = lambda: pytest.fail("was asked")
    assert source(identify(mode="listener"), **told).mac is None


def test_an_unknown_listener(table, connection, caplog):
    """400, and the log says which keys would have fitted."""
    pair = identify(mode="listener", listeners_file=table({}))
    with caplog.at_level(logging.INFO):
        assert source(pair, **{"gunicorn.socket": connection}) is None
    assert keys_of(connection)[1] in caplog.text


def test_one_guest_of_a_listener(table):
    entries = {"one": {"network": NETWORK, "address": "10.0.0.9"}}
    pair = identify(mode="listener", listeners_file=table(entries))
    assert source(pair, peer="", **{"mdmw.listener": "one"}).address == "10.0.0.9"


def test_the_table_is_read_again(table, caplog, monkeypatch):
    """A new network needs no restart; a bad table changes nothing, and says so."""
    monkeypatch.setattr(source_identify, "ReloadingFile", lambda *args: reloading(*args, interval=0))
    from mdmw.reloading import ReloadingFile as reloading

    pair = identify(mode="listener", listeners_file=table({}))
    made = {"mdmw.listener": "one"}
    assert source(pair, **made) is None
    table({"one": {"network": NETWORK}})
    assert source(pair, **made).scope.id == NETWORK
    table('{"one": {"network": "no uuid"}}')
    assert source(pair, **made).scope.id == NETWORK
    assert "keeping the last good content" in caplog.text
    table({"one": {"router": VICTIM}})
    assert source(pair, **made).scope == Scope("router", VICTIM)


BAD_TABLES = {
    "no JSON": ("{", "listeners.json"),
    "no object": ("[]", "JSON object"),
    "not text": (b"\xff".decode("latin-1"), "listeners.json"),
    "no UUID": ({"one": {"network": "x"}}, "'one': 'x' is not a UUID"),
    "no scope": ({"one": {}}, "'one'"),
    "both scopes": ({"one": {"network": NETWORK, "router": NETWORK}}, "'one'"),
    "another scope": ({"one": {"subnet": NETWORK}}, "'one'"),
    "a list": ({"one": [NETWORK]}, "'one'"),
    "a number": ({"one": {"network": 1}}, "'one'"),
    "null": ({"one": None}, "'one'"),
    "a bad address": ({"one": {"network": NETWORK, "address": "x"}}, "'one'"),
    "an address that is no guest's": ({"one": {"network": NETWORK, "address": "127.0.0.1"}}, "'one'"),
    "twice": (
        f'{{"one": {{"network": "{NETWORK}"}}, "one": {{"network": "{VICTIM}"}}}}',
        "'one' is there twice",
    ),
}


@pytest.mark.parametrize("kind", sorted(BAD_TABLES))
def test_a_bad_table(table, kind):
    entries, problem = BAD_TABLES[kind]
    text = refusal(mode="listener", listeners_file=table(entries))
    assert "option 'listeners_file'" in text
    assert problem in text


# --- relay ------------------------------------------------------------------------------

KEY = "a relay's key"
RELAYED = [("X-Forwarded-For", "10.0.0.5"), ("X-Neutron-Network-ID", NETWORK)]
UNIX = {"mode": "relay"}
TCP = {"mode": "relay", "relay_peers": "192.0.2.0/24, 2001:db8::1", "relay_shared_secret": KEY}


def signed(headers=RELAYED, method="GET", target="/", key=KEY, age=0, timestamp=None):
    """The headers of a relay over TCP, with their signature."""
    timestamp = timestamp or str(int(time.time() - age))
    message = wire.relay_message(timestamp, method, target, headers)
    return [*headers, ("X-Mdmw-Relay-Signature", f"{timestamp}:{Signer([key]).sign(message)}")]


@pytest.mark.parametrize("peer", ["", "localhost", "0.0.0.0", "/run/proxy.sock", "@proxy", None])
def test_a_unix_socket_needs_no_signature(peer):
    """1.1: its mode decides who may connect. Servers say it in different words."""
    app, seen = identify(**UNIX)
    made = environ(headers=RELAYED)
    if peer is None:
        del made["REMOTE_ADDR"]
    else:
        made["REMOTE_ADDR"] = peer
    assert send(app, made).status == 200
    assert seen.last[SOURCE] == Source("10.0.0.5", Scope("network", NETWORK))
    assert not [key for key in seen.last if key.startswith("HTTP_X")]


WITH_MAC = [*RELAYED, ("X-Mdmw-Client-MAC", MAC)]
KEYED = {**UNIX, "relay_shared_secret": KEY}


@pytest.mark.parametrize(
    ("options", "headers", "believed"),
    [
        (UNIX, lambda: WITH_MAC, None),
        (UNIX, lambda: [*WITH_MAC, ("X-Mdmw-Client-MAC", MAC)], None),
        (UNIX, lambda: [*RELAYED, ("X-Mdmw-Client-MAC", "no mac")], None),
        (KEYED, lambda: WITH_MAC, None),
        (KEYED, lambda: signed(WITH_MAC), MAC),
        ({**UNIX, "trust_client_mac": "true"}, lambda: WITH_MAC, MAC),
    ],
)
def test_r_8_the_mac_counts_from_those_who_sign(options, headers, believed):
    """R-8, W-2: haproxy passes on what a guest says of its MAC; then it changes nothing."""
    assert source(identify(**options), peer="", headers=headers()) == Source(
        "10.0.0.5", Scope("network", NETWORK), believed
    )


def test_r_8_a_signature_that_does_not_fit_is_refused_also_on_a_unix_socket():
    """R-8: a guest behind haproxy that tries to sign is refused, and nobody else."""
    assert source(identify(**KEYED), peer="", headers=signed(WITH_MAC, key="another key")) is None
    assert source(identify(**KEYED), peer="", headers=[*signed(), WITH_MAC[-1]]) is None


@pytest.mark.parametrize(
    "peer", ["unknown", "_hidden", "10.0.0.1:80", "guest.example", "10.0.0.1, 10.0.0.2", "1.2.3"]
)
@pytest.mark.parametrize("options", [UNIX, TCP])
def test_an_address_that_is_none_is_not_a_unix_socket(peer, options):
    """It may be what a server in front took from a header of the guest."""
    assert source(identify(**options), peer=peer, headers=RELAYED) is None


@pytest.mark.parametrize("peer", ["192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7", "2001:DB8:0::1%eth0"])
def test_tcp_from_a_listed_peer_that_signs(peer):
    assert source(identify(**TCP), peer=peer, headers=signed()).scope.id == NETWORK


@pytest.mark.parametrize("peer", ["198.51.100.1", "127.0.0.1", "::1", "2001:db8::2", "10.0.0.5"])
@pytest.mark.parametrize("options", [TCP, UNIX])
def test_tcp_from_anybody_else(peer, options):
    """Also where no peer is listed at all, and whatever they sign."""
    assert source(identify(**options), peer=peer, headers=signed()) is None


PEER = "192.0.2.7"


# Made when the test runs: a signature that is too old would hide every other fault.
MISFITS = {
    "none": lambda: RELAYED,
    "another key": lambda: signed(key="another key"),
    "too old": lambda: signed(age=31),
    "much too old": lambda: signed(age=3600),
    "too new": lambda: signed(age=-60),
    "of another target": lambda: signed(target="/another"),
    "of another method": lambda: signed(method="POST"),
    "of another network": lambda: [RELAYED[0], ("X-Neutron-Network-ID", VICTIM), signed()[2]],
    "of another address": lambda: [("X-Forwarded-For", "10.0.0.66"), RELAYED[1], signed()[2]],
    "of a router": lambda: [RELAYED[0], ("X-Neutron-Router-ID", NETWORK), signed()[2]],
    "without the MAC": lambda: [*signed(), ("X-Mdmw-Client-MAC", MAC)],
    "empty": lambda: [*RELAYED, ("X-Mdmw-Relay-Signature", "")],
    "a colon": lambda: [*RELAYED, ("X-Mdmw-Relay-Signature", ":")],
    "without a time": lambda: [*RELAYED, ("X-Mdmw-Relay-Signature", signed()[2][1].partition(":")[2])],
    "upper case": lambda: [*RELAYED, ("X-Mdmw-Relay-Signature", signed()[2][1].upper())],
    "twice": lambda: [*signed(), signed()[2]],
    "a time of 5000 digits": lambda: signed(timestamp="9" * 5000),
    "a time of 400 digits": lambda: signed(timestamp="9" * 400),
    "superscript": lambda: signed(timestamp="\xb2\xb2"),
    "negative": lambda: signed(timestamp="-1"),
    "exponent": lambda: signed(timestamp="1e9"),
    "fraction": lambda: signed(timestamp=str(time.time())),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_signatures_that_do_not_fit(kind, caplog):
    """Wrong key, too old, too new, another target, another method, another identity, malformed."""
    app, seen = identify(**TCP)
    assert call(app, headers=signed(), peer=PEER).status == 200
    with caplog.at_level(logging.INFO):
        assert call(app, headers=MISFITS[kind](), peer=PEER).status == 400
    assert len(seen.environs) == 1
    assert "unexpected" not in caplog.text
    assert KEY not in caplog.text


def test_every_legacy_spelling_can_be_signed():
    """What is signed is the source, so that it does not matter under which of its names it came."""
    headers = [*signed(), ("X-Quantum-Network-ID", NETWORK)]
    assert source(identify(**TCP), peer=PEER, headers=headers).scope.id == NETWORK


def test_the_age_is_an_option():
    pair = identify(**TCP, relay_max_age="100")
    assert source(pair, peer=PEER, headers=signed(age=60)) is not None
    assert source(pair, peer=PEER, headers=signed(age=101)) is None


def test_rotation_of_the_relay_key():
    """S-3 for the hop of our own: any listed key is accepted."""
    pair = identify(**TCP | {"relay_shared_secret": f"new key\n{KEY}"})
    assert source(pair, peer=PEER, headers=signed()) is not None
    assert source(pair, peer=PEER, headers=signed(key="new key")) is not None


SOURCES = st.builds(
    Source,
    st.ip_addresses(network="10.0.0.0/8").map(str),
    st.builds(Scope, st.sampled_from(["network", "router"]), st.uuids().map(str)),
    st.none() | st.just(MAC),
)


@given(SOURCES, st.sampled_from(["GET", "POST", "HEAD"]), st.text("ab/?%=&", max_size=20))
def test_what_a_proxy_signs_an_agent_accepts(sent, method, rest):
    target = "/" + rest
    headers = signed(wire.source_headers(sent), method, target)
    assert source(identify(**TCP), method, target, headers, peer=PEER) == sent


@pytest.mark.parametrize("options", [UNIX, TCP])
@pytest.mark.parametrize(
    "more",
    [
        [("X-Neutron-Router-ID", NETWORK)],
        [("X-Neutron-Network-ID", NETWORK)],
        [("X-Forwarded-For", "10.0.0.5")],
        [("X-Quantum-Network-ID", VICTIM)],
        [("X-OVN-Network-ID", VICTIM)],
        [("X-Mdmw-Client-MAC", "no mac")],
    ],
)
def test_doubt_is_a_bad_request(options, more, caplog):
    """1.7, W-3: both ids, duplicates, aliases that differ; no lookup, no forwarding."""
    headers = [*signed(), *more]
    peer, more_options = ("", {"trust_client_mac": "true"}) if options is UNIX else (PEER, {})
    assert source(identify(**options, **more_options), peer=peer, headers=headers) is None


@pytest.mark.parametrize("alias", ["X-Quantum-Network-ID", "X-OVN-Network-ID"])
def test_aliases(alias):
    """1.2, 1.7: accepted alone, and beside the same value."""
    pair = identify(**UNIX)
    for headers in ([RELAYED[0], (alias, NETWORK)], [*RELAYED, (alias, NETWORK)]):
        assert source(pair, peer="", headers=headers).scope == Scope("network", NETWORK)


def test_strict_ids():
    headers = [RELAYED[0], ("X-Neutron-Network-ID", "flat-1")]
    assert source(identify(**UNIX), peer="", headers=headers) is None
    assert source(identify(**UNIX, strict_ids="false"), peer="", headers=headers).scope.id == "flat-1"


# --- configuration ----------------------------------------------------------------------


def refusal(**options):
    with pytest.raises(ConfigError) as error:
        filter_factory({}, **options)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("source-identify: ")
    assert KEY not in text
    return text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, ["'mode' is required"]),
        ({"mode": "guess"}, ["'mode'", "'guess'", "fixed", "listener", "relay"]),
        ({"mode": "fixed"}, ["network_id", "router_id", "exactly one"]),
        ({"mode": "fixed", "network_id": NETWORK, "router_id": NETWORK}, ["exactly one"]),
        ({"mode": "fixed", "network_id": "x"}, ["'network_id'", "'x' is not a UUID"]),
        ({"mode": "fixed", "router_id": NETWORK + "0"}, ["'router_id'", "is not a UUID"]),
        ({"mode": "fixed", "network_id": NETWORK, "address": "x"}, ["'address'", "'x'"]),
        (
            {"mode": "fixed", "network_id": NETWORK, "relay_peers": "10.0.0.1"},
            ["'relay_peers'", "mode = fixed"],
        ),
        ({"mode": "fixed", "network_id": NETWORK, "relay_shared_secret": KEY}, ["relay_shared_secret"]),
        ({"mode": "fixed", "network_id": NETWORK, "relay_shared_secret_key_file": "/k"}, ["_key_file"]),
        ({"mode": "listener", "listeners_file": "/no/table"}, ["'listeners_file'", "/no/table"]),
        (
            {"mode": "listener", "listeners_file": "/x", "network_id": NETWORK},
            ["'network_id'", "mode = listener"],
        ),
        ({"mode": "relay", "network_id": NETWORK}, ["'network_id'", "mode = relay"]),
        ({"mode": "relay", "client_mac": "true"}, ["'client_mac'", "mode = relay"]),
        ({"mode": "relay", "relay_peers": "192.0.2.1"}, ["'relay_shared_secret'", "shared key"]),
        (
            {"mode": "relay", "relay_peers": "192.0.2.1/24", "relay_shared_secret": KEY},
            ["relay_peers", "host bits"],
        ),
        (
            {"mode": "relay", "relay_peers": "proxy", "relay_shared_secret": KEY},
            ["relay_peers", "'proxy'", "allowed"],
        ),
        ({"mode": "relay", "relay_max_age": "0"}, ["relay_max_age", "1"]),
        ({"mode": "relay", "strict_ids": "perhaps"}, ["strict_ids", "perhaps"]),
        ({"mode": "fixed", "network": NETWORK}, ["unknown option 'network'", "network_id"]),
    ],
)
def test_bad_configuration(options, named):
    text = refusal(**options)
    assert [name for name in named if name not in text] == []


def test_nothing_shows_the_key(caplog):
    with caplog.at_level(logging.DEBUG):
        app, _ = identify(**TCP)
        call(app, headers=signed(key="wrong"), peer=PEER)
    assert KEY not in caplog.text + repr(app) + repr(vars(app))
