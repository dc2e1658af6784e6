"""The wire form: what may pass, what never survives, records to headers and back (spec 1.2-1.5, 1.7)."""

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw import wire
from mdmw.errors import BadRequest, HeadersTooLarge, MethodNotAllowed, RequestError, TargetTooLong
from mdmw.records import Instance, Scope, Source

NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
ROUTER = "8d1e7c1a-0b9a-4f0e-8f6e-2f1d5f0c9a11"
MAC = "52:54:00:de:5b:bf"

# Table 1.2: everything that must not survive from H1. A `*` stands for any ending.
FORGEABLE = [
    "X-Forwarded-For",
    *["X-Neutron-Network-ID", "X-Neutron-Router-ID", "X-Quantum-Network-ID", "X-Quantum-Router-ID"],
    *["X-OVN-Network-ID", "X-Instance-ID", "X-Instance-ID-Signature", "X-Tenant-ID"],
    *["X-Metadata-Provider", "X-Metadata-Provider-Signature", "X-Mdmw-Client-MAC", "X-Mdmw-Relay-Signature"],
    *[
        "Forwarded",
        "X-Real-IP",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
    ],
    *["X-Auth-Token", "X-Auth-Anything", "X-Service-Token", "X-Service-Catalog", "X-Service-User-Id"],
    *[
        "X-Identity-Status",
        "X-User-Id",
        "X-User-Name",
        "X-Project-Id",
        "X-Project-Domain-Name",
        "X-Roles",
        "X-Role",
    ],
    *["X-User", "X-Tenant", "X-Tenant-Name", "X-Domain-Id", "X-Is-Admin-Project", "OpenStack-System-Scope"],
]
HOP_BY_HOP = [
    "Keep-Alive",
    "Proxy",
    "Proxy-Connection",
    "Proxy-Authorization",
    "Proxy-Authenticate",
    "Proxy-X",
]
HOP_BY_HOP += ["TE", "Trailer", "Upgrade"]
HARMLESS = [
    "User-Agent",
    "Accept",
    "If-None-Match",
    "If-Modified-Since",
    "Accept-Encoding",
    "Host",
    "Date",
    "X-Foo",
]
HARMLESS += [
    "X-aws-ec2-metadata-token",
    "X-aws-ec2-metadata-token-ttl-seconds",
    "Xx-Forwarded-For",
    "X-Usher",
]


def request(headers=(), method="GET", target="/", **more):
    """The environ of a request, names folded as every WSGI server folds them."""
    environ = {"REQUEST_METHOD": method, "RAW_URI": target, "REMOTE_ADDR": "10.0.0.5"}
    for name, value in headers:
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        environ[key] = f"{environ[key]}, {value}" if key in environ else value
    return environ | more


def spellings(name):
    yield from {name, name.lower(), name.upper(), name.replace("-", "_"), name.lower().replace("-", "_")}
    parts = name.split("-")
    for joints in itertools.islice(itertools.product("-_", repeat=len(parts) - 1), 16):
        yield "".join(itertools.chain.from_iterable(zip(parts, [*joints, ""], strict=True)))


def check(environ):
    wire.check_request(environ, 8192, 32768)


# --- W-1, W-2: what is stripped ---------------------------------------------------------


@pytest.mark.parametrize("name", [*FORGEABLE, *HOP_BY_HOP])
def test_forged_headers_go_in_every_spelling(name):
    """W-1, W-2: dashes, underscores and case are equal, and so are one and many."""
    for spelling in spellings(name):
        environ = request([(spelling, "forged"), (name, "again")])
        wire.strip(environ)
        assert not [key for key in environ if key.startswith("HTTP_")], spelling


@pytest.mark.parametrize("name", HARMLESS)
def test_the_rest_stays(name):
    environ = request([(name, "value")])
    wire.strip(environ)
    assert environ[wire.environ_key(name)] == "value"


@given(
    st.sampled_from(
        ["X-Forwarded-", "X-Auth-", "X-Service-", "X-User-", "X-Project-", "X-Neutron-", "X-Quantum-"]
    )
    | st.sampled_from(
        ["X-OVN-", "X-Instance-", "X-Metadata-", "X-Mdmw-", "X-Tenant-", "x_neutron_", "X_Ovn-"]
    ),
    st.text(string.ascii_letters + string.digits + "-_", max_size=20),
)
def test_whole_families_go(prefix, rest):
    environ = request([(prefix + rest, "forged")])
    wire.strip(environ)
    assert not [key for key in environ if key.startswith("HTTP_")]


@pytest.mark.parametrize(
    "listing", ["X-Foo", "close, X-Foo", "x_foo", " X-FOO ,keep-alive", "X-Foo,,", ",X-Foo"]
)
def test_what_connection_lists_goes(listing):
    """1.2: hop-by-hop is `Connection` and every name it lists."""
    environ = request([("Connection", listing), ("X-Foo", "hop")])
    wire.strip(environ)
    assert "HTTP_X_FOO" not in environ


@pytest.mark.parametrize(
    "name", ["Host", "Content-Length", "Content_Length", "Transfer-Encoding", "Content-Type", "Connection"]
)
def test_connection_cannot_remove_what_carries_the_request(name):
    """A guest must not switch framing or checks off by listing them."""
    headers = [("Connection", name), ("Host", "h"), ("Content-Type", "a/b")]
    for framing in ([("Content-Length", "3")], [("Transfer-Encoding", "chunked")]):
        environ = request([*headers, *framing])
        before = dict(environ)
        wire.strip(environ)
        assert environ == before


@pytest.mark.parametrize(
    "listed", ["mdmw.source", "REQUEST_METHOD", "wsgi.input", "REMOTE_ADDR", "\xdf", "\xff", ""]
)
def test_connection_cannot_remove_anything_of_the_server(listed):
    environ = request([("Connection", listed)]) | {"mdmw.source": 1, "wsgi.input": 2}
    before = dict(environ)
    wire.strip(environ)
    assert environ == before


@given(
    st.dictionaries(st.text(st.characters(max_codepoint=255), max_size=12), st.text(max_size=5), max_size=8)
)
def test_strip_takes_headers_only_and_takes_them_once(environ):
    stripped = dict(environ)
    wire.strip(stripped)
    assert stripped.items() <= environ.items()
    assert all(key.startswith("HTTP_") for key in environ.keys() - stripped.keys())
    again = dict(stripped)
    wire.strip(again)
    assert again == stripped


def test_w1_what_is_remembered_of_names_is_bounded_and_never_of_values():
    """Whatever names guests make up; and the same names with other values are judged anew."""
    for number in range(1000):
        wire.strip(request([(f"X-Made-Up-{number}", "x")]))
    wire.strip(request([("X-" + "a" * 30000, "x")]))
    assert len(wire._known) <= 256
    assert max(names.size for names in wire._known.values()) <= 2048
    for _ in range(2):
        wire.check_request(request([("X-Once", "good")]), 8192, 32768)
        with pytest.raises(BadRequest, match="a character"):
            wire.check_request(request([("X-Once", "\x01")]), 8192, 32768)
        with pytest.raises(HeadersTooLarge):
            wire.check_request(request([("X-Once", "x" * 40000)]), 8192, 32768)


# --- W-6, W-7, W-9, W-10: what is refused -----------------------------------------------


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "X-Y!"]
)
def test_any_method_passes(method):
    """W-6."""
    check(request(method=method))


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_but_not_these(method):
    """W-6."""
    with pytest.raises(MethodNotAllowed) as error:
        check(request(method=method))
    assert "GET" in error.value.allow
    assert method not in error.value.allow


@pytest.mark.parametrize("method", ["", " ", "GE T", "GET\r\n", "G\xcbT", "GET/", "(GET)", None])
def test_a_method_is_a_token(method):
    with pytest.raises(BadRequest):
        check(request(method=method))


def test_an_environ_without_anything():
    """uWSGI hands over what it could not parse as an environ with holes in it."""
    with pytest.raises(BadRequest):
        check({})
    check({"REQUEST_METHOD": "GET", "PATH_INFO": "/"})
    with pytest.raises(BadRequest):
        check({"REQUEST_METHOD": "GET", "REQUEST_URI": "", "PATH_INFO": "no slash"})


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//",
        "/a%3Fb%2Fc",
        "/..",
        "/a/../b",
        "/a?b=c&d?e",
        "/?",
        "/%00",
        "/\xe9\xff\x80",
        "/a#b",
        "/%zz",
        "/~!$&'()*+,;=:@",
    ],
)
def test_targets_pass_byte_for_byte(target):
    """W-7."""
    assert wire.request_target(request(target=target)) == target
    assert wire.request_target({"REQUEST_URI": target}) == target


@pytest.mark.parametrize(
    ("absolute", "origin"),
    [
        ("http://169.254.169.254/a?b", "/a?b"),
        ("HTTP://evil.example:99/a/../b", "/a/../b"),
        ("https://u:p@h", "/"),
        ("http://h?x", "/?x"),
        ("http://", "/"),
        ("http:///a", "/a"),
        ("x+y.z-1://h/a//b", "/a//b"),
    ],
)
def test_the_authority_of_an_absolute_target_is_ignored(absolute, origin):
    """W-7."""
    assert wire.request_target(request(target=absolute)) == origin


@pytest.mark.parametrize(
    "target",
    [
        *["a", "*", "h:80", "?x", "http:/a", "1http://h/", "://h/"],
        *["/a b", "/a\tb", "/a\\b", "/\x00", "/a\r\nHost: x", "/a\n", "/\x7f", "/\x1f", "http://h\\x/a"],
        *["/\u0100", "/\ud800", "/a\u2028b"],
    ],
)
def test_targets_that_nobody_may_send_on(target):
    """W-7: and what is not one byte for each character cannot be a request line."""
    with pytest.raises(BadRequest):
        wire.request_target(request(target=target))


@given(st.text(max_size=60))
def test_a_target_is_sendable_or_a_bad_request(text):
    for environ in (
        {"RAW_URI": text},
        {"REQUEST_URI": text},
        {"PATH_INFO": text},
        {"PATH_INFO": "/", "QUERY_STRING": text},
    ):
        try:
            target = wire.request_target(environ)
        except BadRequest:
            continue
        assert target.startswith("/")
        assert not set(target.encode("latin-1")) & set(b"\x00\r\n\t \\\x7f")


@given(st.text(string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@/", max_size=40))
def test_a_decoded_path_is_quoted_again(path):
    """Servers that keep no raw target lose only `%2F`; the rest is what it was."""
    assert wire.request_target({"PATH_INFO": "/" + path}) == "/" + path


def test_a_mounted_path_and_odd_bytes():
    environ = {"SCRIPT_NAME": "/pre fix", "PATH_INFO": "/a?b#c%\xe9", "QUERY_STRING": "x=%20"}
    assert wire.request_target(environ) == "/pre%20fix/a%3Fb%23c%25%E9?x=%20"


def test_the_limit_of_the_target():
    """W-9."""
    wire.check_request(request(target="/" + "a" * 99), 100, 32768)
    with pytest.raises(TargetTooLong):
        wire.check_request(request(target="/" + "a" * 100), 100, 32768)


def test_the_limit_of_the_headers():
    """W-9: names and values of all headers together."""
    check(request([("X-A", "b" * 32000)]))
    for headers in (
        [("X-A", "b" * 33000)],
        [(f"X-{n}", "b" * 100) for n in range(400)],
        [("Content-Type", "b" * 33000)],
    ):
        with pytest.raises(HeadersTooLarge):
            check(request(headers))


@pytest.mark.parametrize(
    "value", ["a\rb", "a\nb", "a\r\n b", "a\x00b", "\x7f", "a\x1bb", "a\u0100", "\ud800", "a\r\n\tb"]
)
@pytest.mark.parametrize("name", ["X-A", "Content-Type", "User-Agent", "Connection", "X-Forwarded-For"])
def test_header_values_that_nobody_may_send_on(name, value):
    """W-10: bare CR and obs-fold; and what is not one byte for each character."""
    with pytest.raises(BadRequest):
        check(request([(name, value)]))


@pytest.mark.parametrize("value", ["", "a\tb", "\xe9\xff\x80", "a, b", "   "])
def test_header_values_that_are_odd_but_legal(value):
    check(request([("X-A", value)]))


@pytest.mark.parametrize(
    "length", ["-1", "+1", "1 ", " 1", "1,1", "1, 2", "0x1", "1.0", "\xb2", "\u0661", "9" * 19, "a"]
)
def test_a_length_is_a_number(length):
    """W-10: differing duplicates, which servers join with a comma, too."""
    with pytest.raises(BadRequest):
        check(request(CONTENT_LENGTH=length))


def test_two_framings():
    """W-10: request smuggling begins here."""
    with pytest.raises(BadRequest):
        check(request([("Content-Length", "3"), ("Transfer-Encoding", "chunked")]))
    with pytest.raises(BadRequest):
        check(request([("Content-Length", "0"), ("Transfer-Encoding", "identity")]))
    check(request([("Transfer-Encoding", "chunked")]))
    check(request(CONTENT_LENGTH="") | {"HTTP_TRANSFER_ENCODING": "chunked"})


TEXT = st.text(max_size=30)


@given(
    TEXT,
    TEXT,
    st.dictionaries(st.sampled_from(["HTTP_X", "HTTP_ACCEPT", "CONTENT_TYPE", "CONTENT_LENGTH"]), TEXT),
)
def test_what_passes_can_be_sent(method, target, headers):
    """Nothing that could split a request ever passes, whatever a server lets through."""
    environ = {"REQUEST_METHOD": method, "RAW_URI": target} | headers
    try:
        check(environ)
    except RequestError:
        return
    sent = [
        method,
        wire.request_target(environ),
        *(value for pair in wire.to_agent(environ) for value in pair),
    ]
    for text in sent:
        assert not set(text.encode("latin-1")) & set(b"\r\n\x00")


# --- the hop between proxy and agent ----------------------------------------------------

MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
SCOPES = st.builds(Scope, st.sampled_from(["network", "router"]), st.uuids().map(str))
ADDRESSES = st.ip_addresses(network="10.0.0.0/8").map(str) | st.ip_addresses(network="2001:db8::/32").map(str)
SOURCES = st.builds(Source, ADDRESSES | st.just("fe80::5054:ff:fede:5bbf"), SCOPES, st.none() | MACS)


@given(SOURCES, st.booleans())
def test_a_source_there_and_back(source, legacy):
    """H2 of table 1.2: what the proxy writes, the agent reads, with the Quantum names too."""
    headers = wire.source_headers(source, legacy)
    assert wire.read_source(request(headers)) == source
    names = [name for name, _ in headers]
    assert len(set(names)) == len(names)
    assert ("X-Quantum-Network-ID" in names or "X-Quantum-Router-ID" in names) == legacy


def test_the_names_on_h2():
    source = Source("10.0.0.5", Scope("router", ROUTER), MAC)
    assert wire.source_headers(source, legacy=True) == [
        ("X-Forwarded-For", "10.0.0.5"),
        ("X-Neutron-Router-ID", ROUTER),
        ("X-Quantum-Router-ID", ROUTER),
        ("X-Mdmw-Client-MAC", MAC),
    ]
    assert wire.source_headers(Source("fd00::1", Scope("network", NETWORK))) == [
        ("X-Forwarded-For", "fd00::1"),
        ("X-Neutron-Network-ID", NETWORK),
    ]


FROM = ("X-Forwarded-For", "10.0.0.5")


@pytest.mark.parametrize(
    ("headers", "scope"),
    [
        ([("X-Neutron-Network-ID", NETWORK)], Scope("network", NETWORK)),
        ([("X-Neutron-Router-ID", ROUTER)], Scope("router", ROUTER)),
        ([("X-Quantum-Network-ID", NETWORK)], Scope("network", NETWORK)),
        ([("X-Quantum-Router-ID", ROUTER)], Scope("router", ROUTER)),
        ([("X-OVN-Network-ID", NETWORK)], Scope("network", NETWORK)),
        ([("X-Neutron-Network-ID", NETWORK), ("X-Quantum-Network-ID", NETWORK)], Scope("network", NETWORK)),
        ([("X-Neutron-Network-ID", NETWORK), ("X-OVN-Network-ID", NETWORK)], Scope("network", NETWORK)),
        ([("X-Neutron-Router-ID", ROUTER), ("X-Quantum-Router-ID", ROUTER)], Scope("router", ROUTER)),
        ([("X-Neutron-Network-ID", f" {NETWORK} ")], Scope("network", NETWORK)),
        ([("X-Neutron-Network-ID", NETWORK.upper())], Scope("network", NETWORK.upper())),
    ],
)
def test_identity_headers_that_are_accepted(headers, scope):
    """1.7, rows 1, 2 and 6; the OVN alias of 1.2."""
    assert wire.read_source(request([FROM, *headers])).scope == scope


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Neutron-Network-ID", NETWORK), ("X-Neutron-Router-ID", ROUTER)],
        [("X-Neutron-Network-ID", NETWORK), ("X-Quantum-Router-ID", ROUTER)],
        [("X-OVN-Network-ID", NETWORK), ("X-Neutron-Router-ID", ROUTER)],
        [("X-Neutron-Network-ID", NETWORK), ("X-Quantum-Network-ID", ROUTER)],
        [("X-Neutron-Router-ID", NETWORK), ("X-Quantum-Router-ID", ROUTER)],
        [("X-Neutron-Network-ID", NETWORK), ("X-OVN-Network-ID", ROUTER)],
        [("X-Neutron-Network-ID", NETWORK), ("X-Neutron-Network-ID", NETWORK)],
        [("X-Neutron-Network-ID", NETWORK), ("X_Neutron_Network_ID", ROUTER)],
        [("X-Neutron-Network-ID", "")],
        [("X-Neutron-Network-ID", "not-a-uuid")],
        [("X-Neutron-Network-ID", NETWORK.replace("-", ""))],
        [("X-Neutron-Network-ID", NETWORK + "0")],
        [("X-Neutron-Network-ID", ""), ("X-Neutron-Router-ID", ROUTER)],
        [("X-Neutron-Network-ID", NETWORK), ("X-Mdmw-Client-MAC", "x")],
        [("X-Neutron-Network-ID", NETWORK), ("X-Mdmw-Client-MAC", f"{MAC}, {MAC}")],
        [("X-Neutron-Network-ID", NETWORK), ("X-Forwarded-For", "10.0.0.6")],
    ],
)
def test_identity_headers_that_are_refused(headers):
    """1.7, rows 3, 4, 5 and 7; W-3."""
    with pytest.raises(BadRequest):
        wire.read_source(request([FROM, *headers]))


@pytest.mark.parametrize(
    "address", [None, "", " ", "1.2.3.4, 10.0.0.5", "10.0.0.5,", "x", "127.0.0.1", "::", "169.254.169.254"]
)
def test_source_addresses_that_are_refused(address):
    """1.3, last two rows; W-3."""
    headers = [("X-Neutron-Network-ID", NETWORK)]
    with pytest.raises(BadRequest):
        wire.read_source(request(headers if address is None else [*headers, ("X-Forwarded-For", address)]))


def test_ids_that_are_no_uuids_where_allowed():
    """1.7, `strict_ids = false`: still not two, not both, not none."""
    environ = request([FROM, ("X-Neutron-Network-ID", "flat-1")])
    assert wire.read_source(environ, strict_ids=False).scope == Scope("network", "flat-1")
    for headers in ([("X-Neutron-Network-ID", "a, b")], [("X-Neutron-Network-ID", "")], []):
        with pytest.raises(BadRequest):
            wire.read_source(request([FROM, *headers]), strict_ids=False)


@given(
    st.dictionaries(
        st.sampled_from([*FORGEABLE[:12], "X-Mdmw-Client-MAC"]),
        st.text(st.characters(max_codepoint=255), max_size=40),
    )
)
def test_any_headers_are_a_source_or_a_bad_request(headers):
    for strict in (True, False):
        try:
            source = wire.read_source(request(headers.items()), strict)
        except BadRequest:
            continue
        assert source.scope.id


@given(
    SOURCES,
    SOURCES,
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["/", "/a"]),
    st.sampled_from(["1", "2"]),
)
def test_every_part_is_in_what_a_relay_signs(one, other, method, target, timestamp):
    def message(source, method="GET", target="/", timestamp="1"):
        return wire.relay_message(timestamp, method, target, wire.source_headers(source))

    assert (message(one) == message(other)) == (one == other)
    assert (message(one, method, target, timestamp) == message(one)) == (
        (method, target, timestamp) == ("GET", "/", "1")
    )


@given(st.lists(st.sampled_from(["a", "b", "/", "x-forwarded-for", ""]), min_size=5, max_size=5))
def test_nothing_can_be_shifted_between_the_parts(parts):
    """NUL between the parts, which nothing that passed `check_request` contains."""
    timestamp, method, target, name, value = parts
    message = wire.relay_message(timestamp, method, target, [(name, value)])
    assert message.split(b"\0")[1:] == [part.encode() for part in parts]


# --- headers of the request -------------------------------------------------------------

GUEST = [
    (name, f"value of {name}")
    for name in ("User-Agent", "Accept", "Content-Type", "If-None-Match", "If-Modified-Since")
]
TOKEN = [("X-aws-ec2-metadata-token", "t"), ("X-aws-ec2-metadata-token-ttl-seconds", "60")]
DROPPED = [
    *((name, "x") for name in FORGEABLE + HOP_BY_HOP),
    ("Cookie", "c"),
    ("Authorization", "a"),
    ("Range", "bytes=0-1"),
]
DROPPED += [
    ("Host", "guest"),
    ("Connection", "close"),
    ("Transfer-Encoding", "chunked"),
    ("Expect", "100-continue"),
]


def test_what_passes_to_the_agent():
    """1.2, column H2."""
    environ = request([*GUEST, *TOKEN, *DROPPED, ("Accept-Encoding", "gzip"), ("Content-Length", "3")])
    assert wire.to_agent(environ) == [*GUEST, ("Accept-Encoding", "gzip"), *TOKEN]


def test_what_passes_to_nova():
    """1.2, column H4, and W-14: identity is forced, tokens are ours."""
    environ = request([*GUEST, *TOKEN, *DROPPED, ("Accept-Encoding", "gzip"), ("Content-Length", "3")])
    assert wire.to_nova(environ) == [*GUEST, ("Accept-Encoding", "identity")]
    assert wire.to_nova(request()) == [("Accept-Encoding", "identity")]


def test_the_proofs():
    """1.2, column H4; 3.3."""
    assert wire.instance_headers(Instance("i", "p", "port"), "s") == [
        ("X-Instance-ID", "i"),
        ("X-Instance-ID-Signature", "s"),
        ("X-Tenant-ID", "p"),
    ]
    assert wire.provider_headers("p", "s") == [
        ("X-Metadata-Provider", "p"),
        ("X-Metadata-Provider-Signature", "s"),
    ]


# --- headers of the response ------------------------------------------------------------

PASSED = [
    "Content-Type",
    "Content-Encoding",
    "Content-Language",
    "ETag",
    "Last-Modified",
    "Cache-Control",
    "Expires",
]
PASSED += ["Retry-After", "Allow", "Location", "X-aws-ec2-metadata-token-ttl-seconds"]
KEPT_BACK = [
    "Server",
    "Set-Cookie",
    "Date",
    "Connection",
    "Keep-Alive",
    "Transfer-Encoding",
    "Content-Length",
    "Via",
]
KEPT_BACK += ["Trailer", "Upgrade", "WWW-Authenticate", "X-Powered-By", "X-Compute-Request-Id", *FORGEABLE]


@pytest.mark.parametrize("name", PASSED)
def test_response_headers_that_pass(name):
    """W-12."""
    for spelling in (name, name.lower(), name.upper()):
        assert wire.from_nova([(spelling, "v")]) == [(spelling, "v")]
        assert wire.from_agent([(spelling, "v")]) == [(spelling, "v")]


@pytest.mark.parametrize("name", KEPT_BACK)
def test_response_headers_that_do_not(name):
    """W-12."""
    assert wire.from_nova([(name, "v"), (name.lower(), "v")]) == []
    assert wire.from_agent([(name, "v")]) == []


def test_the_request_id_is_the_agents_not_novas():
    """W-18: the guest reads one id, that of the hop which has it in its log."""
    header = ("X-Openstack-Request-Id", "req-1")
    assert wire.from_agent([header]) == [header]
    assert wire.from_nova([header]) == []


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_response_header_can_split_the_response(value):
    """Not even one that was folded on the way."""
    [(_, passed)] = wire.from_nova([("ETag", value)])
    assert not set(passed) & {chr(code) for code in [*range(32), 127]} - {"\t"}
    if value.isprintable():
        assert passed == value.strip(" \t")


@pytest.mark.parametrize("text", ["a\r\nSet-Cookie: b", "a\rb", "a\nb", "a\x00b", "a\x1bb"])
def test_one_line(text):
    assert wire.one_line(text) == " ".join(text.replace("\x00", " ").replace("\x1b", " ").split())
