"""The wire form: header names, what may pass a hop, and records to headers and back.

This is the only module that knows the names of identity headers (spec 1.2). All
matching is on WSGI environ keys, in which `-`, `_` and case are already equal (W-2).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from mdmw.errors import BadRequest, Contradiction, HeadersTooLarge, MethodNotAllowed, TargetTooLong
from mdmw.records import Environ, Instance, Scope, Source, is_uuid, normalise_address, normalise_mac

Headers = list[tuple[str, str]]

FORWARDED_FOR = "X-Forwarded-For"
NETWORK_ID = "X-Neutron-Network-ID"
ROUTER_ID = "X-Neutron-Router-ID"
LEGACY_NETWORK_ID = "X-Quantum-Network-ID"
LEGACY_ROUTER_ID = "X-Quantum-Router-ID"
CLIENT_MAC = "X-Mdmw-Client-MAC"
RELAY_SIGNATURE = "X-Mdmw-Relay-Signature"
INSTANCE_ID = "X-Instance-ID"
INSTANCE_SIGNATURE = "X-Instance-ID-Signature"
PROJECT_ID = "X-Tenant-ID"
PROVIDER_ID = "X-Metadata-Provider"
PROVIDER_SIGNATURE = "X-Metadata-Provider-Signature"
REQUEST_ID = "X-Openstack-Request-Id"
TRACEPARENT = "traceparent"


def environ_key(name: str) -> str:
    """`X-Forwarded-For` -> `HTTP_X_FORWARDED_FOR`."""
    return "HTTP_" + name.upper().replace("-", "_")


_KEY = {
    name: environ_key(name)
    for name in (
        FORWARDED_FOR,
        NETWORK_ID,
        ROUTER_ID,
        LEGACY_NETWORK_ID,
        LEGACY_ROUTER_ID,
        CLIENT_MAC,
        RELAY_SIGNATURE,
        INSTANCE_ID,
        INSTANCE_SIGNATURE,
        PROJECT_ID,
        PROVIDER_ID,
        PROVIDER_SIGNATURE,
    )
}

#: Environ keys of what names a request in logs; for trusted hops only.
REQUEST_ID_KEY = environ_key(REQUEST_ID)
TRACEPARENT_KEY = environ_key(TRACEPARENT)
_LOGGED_KEYS = frozenset({REQUEST_ID_KEY, TRACEPARENT_KEY, "HTTP_TRACESTATE"})

# Everything by which some program in this ecosystem believes who is calling.
_FORGEABLE_KEYS = frozenset(_KEY.values()) | {
    "HTTP_FORWARDED",
    "HTTP_X_REAL_IP",
    "HTTP_X_IDENTITY_STATUS",
    "HTTP_X_ROLES",
    "HTTP_X_ROLE",
    "HTTP_X_USER",
    "HTTP_X_TENANT",
    "HTTP_X_IS_ADMIN_PROJECT",
    "HTTP_OPENSTACK_SYSTEM_SCOPE",
}
_FORGEABLE_PREFIXES = (
    "HTTP_X_FORWARDED_",
    "HTTP_X_AUTH_",
    "HTTP_X_SERVICE_",
    "HTTP_X_USER_",
    "HTTP_X_PROJECT_",
    "HTTP_X_TENANT_",
    "HTTP_X_DOMAIN_",
    "HTTP_X_NEUTRON_",
    "HTTP_X_QUANTUM_",
    "HTTP_X_OVN_",
    "HTTP_X_INSTANCE_",
    "HTTP_X_METADATA_",
    "HTTP_X_MDMW_",
    "HTTP_PROXY_",
)
_HOP_BY_HOP_KEYS = frozenset(
    {
        "HTTP_KEEP_ALIVE",
        "HTTP_PROXY",
        "HTTP_TE",
        "HTTP_TRAILER",
        "HTTP_UPGRADE",
    }
)

# Also removed, but not counted as forged: tracing libraries send `traceparent` in good faith.
_NO_CLAIMS = _LOGGED_KEYS | _HOP_BY_HOP_KEYS
_STRIPPED = re.compile(
    "|".join(
        [
            *_FORGEABLE_PREFIXES,
            *(rf"{key}\Z" for key in sorted(_FORGEABLE_KEYS | _NO_CLAIMS)),
        ]
    )
)

# The allow-lists of spec 1.2 as (environ key, name on the wire); what is not here is dropped.
_TO_NOVA = (
    ("HTTP_USER_AGENT", "User-Agent"),
    ("HTTP_ACCEPT", "Accept"),
    ("CONTENT_TYPE", "Content-Type"),
    ("HTTP_IF_NONE_MATCH", "If-None-Match"),
    ("HTTP_IF_MODIFIED_SINCE", "If-Modified-Since"),
)
_TO_AGENT = (
    *_TO_NOVA,
    ("HTTP_ACCEPT_ENCODING", "Accept-Encoding"),
    ("HTTP_X_AWS_EC2_METADATA_TOKEN", "X-aws-ec2-metadata-token"),
    ("HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS", "X-aws-ec2-metadata-token-ttl-seconds"),
)

# The response headers of W-12, lower-case.
_FROM_NOVA = frozenset(
    {
        "content-type",
        "content-encoding",
        "content-language",
        "etag",
        "last-modified",
        "cache-control",
        "expires",
        "retry-after",
        "allow",
        "location",
        "x-aws-ec2-metadata-token-ttl-seconds",
    }
)
_FROM_AGENT = _FROM_NOVA | {REQUEST_ID.lower()}

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# WSGI gives text of which each character is a byte; what is not cannot be sent on.
_BAD_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_BAD_TARGET = re.compile(r"[^\x21-\x5b\x5d-\x7e\x80-\xff]")
ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_REQUEST_ID = re.compile(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PROTOCOL = re.compile(r"HTTP/[0-9](\.[0-9])?")
_HTTP_1_1 = "HTTP/1.1"
_MOST_KNOWN, _LONGEST_KNOWN = 256, 2048  # targets and sets of names that are remembered, and bytes of one
_DIGITS = re.compile(r"[0-9]{1,18}")
_PATH_SAFE = "/!$&'()*+,;=:@-._~"
_NEVER_RELAYED = frozenset({"CONNECT", "TRACE"})
_RELAYED = ("GET", "HEAD", "POST", "PUT", "DELETE")


# --- the request of a guest -------------------------------------------------------------


def check_request(environ: Environ, max_target: int, max_headers: int) -> None:
    """Refuse what no hop may carry: spec 1.4, W-6, W-7, W-9, W-10.

    `max_target` and `max_headers` are bytes. Servers differ in what they let
    through, so everything is looked at again here.
    """
    method = environ.get("REQUEST_METHOD") or ""
    if method not in _RELAYED and not _TOKEN.fullmatch(method):
        raise BadRequest("the request method is not a token")
    if method in _NEVER_RELAYED:
        raise MethodNotAllowed(f"{method} is never relayed", _RELAYED)
    protocol = environ.get("SERVER_PROTOCOL", _HTTP_1_1)
    if protocol != _HTTP_1_1 and not _PROTOCOL.fullmatch(protocol):
        raise BadRequest("the request line does not end in an HTTP version")
    target = request_target(environ)
    if len(target) > max_target:
        raise TargetTooLong(f"the request target has {len(target)} bytes, {max_target} are allowed")
    names = _names(environ)
    values = "".join([environ[key] for key in names.headers]) + (environ.get("CONTENT_TYPE") or "")
    if not _is_plain(values) and _BAD_VALUE.search(values):
        raise BadRequest("a character that cannot be in a header")
    size = len(values) + names.size
    if size > max_headers:
        raise HeadersTooLarge(f"the headers have {size} bytes, {max_headers} are allowed")
    length = environ.get("CONTENT_LENGTH")
    if length:
        if not _DIGITS.fullmatch(length):
            raise BadRequest(f"Content-Length {length[:40]!r} is not a number")
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise BadRequest("both Content-Length and Transfer-Encoding")


def request_target(environ: Environ) -> str:
    """The request target in origin form, byte for byte as the guest wrote it (W-7).

    Latin-1 text, so that one character is one byte. A server that offers neither
    REQUEST_URI nor RAW_URI has decoded the path; it is then quoted again, which
    cannot tell `%2F` from `/`.
    """
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI") or _quoted_again(environ)
    return _often_asked(target) if len(target) <= _LONGEST_KNOWN else _origin_form(target)


def _origin_form(target: str) -> str:
    if _BAD_TARGET.search(target):
        raise BadRequest("control character, space or backslash in the request target")
    if target.startswith("/"):
        return target
    absolute = ABSOLUTE.match(target)
    if not absolute:
        raise BadRequest("the request target is neither in origin nor in absolute form")
    target = target[absolute.end() :]
    return target if target.startswith("/") else "/" + target


_often_asked = lru_cache(maxsize=_MOST_KNOWN)(_origin_form)


def _quoted_again(environ: Environ) -> str:
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    query = environ.get("QUERY_STRING")
    try:
        return quote(path, _PATH_SAFE, encoding="latin-1") + (f"?{query}" if query else "")
    except UnicodeEncodeError:
        raise BadRequest("the request path has characters that are not bytes") from None


def strip(environ: Environ) -> int:
    """Delete every header by which a guest could claim an identity, and hop-by-hop ones (W-1, W-2).

    Returns how many of the former there were.
    Names listed in `Connection` go too, but never a name that carries the
    request itself, so that listing `Host` or a length changes nothing.
    """
    listed = environ.get("HTTP_CONNECTION")
    if listed:
        for name in listed.split(","):
            key = environ_key(name.strip())
            if key not in ("HTTP_HOST", "HTTP_TRANSFER_ENCODING", "HTTP_CONNECTION"):
                environ.pop(key, None)
    names = _names(environ)
    for key in names.stripped:
        del environ[key]
    return names.claims


@dataclass(frozen=True, slots=True)
class _Names:
    """What the names in an environ say by themselves, whatever their values are."""

    headers: tuple[str, ...]
    size: int  # of all names, in bytes
    stripped: tuple[str, ...]
    claims: int  # how many of the stripped ones


_known: dict[tuple[str, ...], _Names] = {}


def _names(environ: Environ) -> _Names:
    """Looked at once for each set of names: a guest's programs send the same ones with each request."""
    keys = tuple(environ)
    names = _known.get(keys)
    if names is None:
        names = _look_at(keys)
        if names.size <= _LONGEST_KNOWN:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[keys] = names
    return names


def _look_at(keys: tuple[str, ...]) -> _Names:
    headers = tuple(key for key in keys if key.startswith("HTTP_"))
    stripped = tuple(key for key in keys if _STRIPPED.match(key))
    claims = sum(key not in _NO_CLAIMS and not key.startswith("HTTP_PROXY_") for key in stripped)
    return _Names(headers, len("".join((*headers, "CONTENT_TYPE"))), stripped, claims)


# --- the hop between proxy and agent ----------------------------------------------------


def source_headers(source: Source, legacy: bool = False) -> Headers:
    """The wire form of a source (spec 1.2, column H2); `legacy` adds the Quantum name."""
    name = NETWORK_ID if source.scope.kind == "network" else ROUTER_ID
    headers = [(FORWARDED_FOR, source.address), (name, source.scope.id)]
    if legacy:
        headers.append((name.replace("Neutron", "Quantum"), source.scope.id))
    if source.mac:
        headers.append((CLIENT_MAC, source.mac))
    return headers


def read_source(environ: Environ, strict_ids: bool = True, with_mac: bool = True) -> Source:
    """The source that a trusted hop wrote (spec 1.3, 1.7); raises `BadRequest` for any doubt.

    Without `with_mac` what is said of the MAC counts for nothing: haproxy, which writes the
    other headers anew, lets a guest's own pass.
    """
    address = _single(environ, FORWARDED_FOR)
    if not address:
        raise BadRequest(f"no {FORWARDED_FOR} from the proxy")
    network = _one_id(environ, (NETWORK_ID, LEGACY_NETWORK_ID, "X-OVN-Network-ID"), strict_ids)
    router = _one_id(environ, (ROUTER_ID, LEGACY_ROUTER_ID), strict_ids)
    if network and router:
        raise Contradiction("both a network id and a router id from the proxy")
    if network:
        scope = Scope("network", network)
    elif router:
        scope = Scope("router", router)
    else:
        raise BadRequest("neither a network id nor a router id from the proxy")
    mac = _single(environ, CLIENT_MAC) if with_mac else None
    try:
        return Source(normalise_address(address), scope, normalise_mac(mac) if mac else None)
    except ValueError as error:
        raise BadRequest(f"{CLIENT_MAC}: {error}") from None


def forwarded_for(environ: Environ) -> str | None:
    """X-Forwarded-For as received, however many values; says nothing about who asks."""
    value: str | None = environ.get(_KEY[FORWARDED_FOR])
    return value


def request_id(value: str) -> str | None:
    """The value of a request id header, None unless it is `req-` and a UUID."""
    return value if _REQUEST_ID.fullmatch(value) else None


def relay_signature(environ: Environ) -> str | None:
    """The relay signature of a TCP hop, or None."""
    return _single(environ, RELAY_SIGNATURE)


def relay_message(timestamp: str, method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """What a TCP relay signs: time, method, target and the identity headers, NUL between them."""
    fields = ["mdmw-relay-1", timestamp, method, target]
    for name, value in sorted(headers):
        fields += (name.lower(), value)
    return "\0".join(fields).encode("latin-1")


def _single(environ: Environ, name: str) -> str | None:
    value = environ.get(_KEY.get(name) or environ_key(name))
    if value is None:
        return None
    if "," in value:
        raise Contradiction(f"several values of {name} from the proxy")  # W-3
    stripped: str = value.strip()
    return stripped


def _one_id(environ: Environ, names: tuple[str, ...], strict: bool) -> str | None:
    values = {value for name in names if (value := _single(environ, name)) is not None}
    if not values:
        return None
    if len(values) > 1:
        raise Contradiction(f"{' and '.join(names)} differ")
    value = values.pop()
    if strict and not is_uuid(value):
        raise BadRequest(f"{names[0]} is not a UUID")
    return value


# --- the hop to Nova --------------------------------------------------------------------


def instance_headers(instance: Instance, signature: str) -> Headers:
    """The wire form of an instance and its proof (spec 1.2, column H4)."""
    return [
        (INSTANCE_ID, instance.id),
        (INSTANCE_SIGNATURE, signature),
        (PROJECT_ID, instance.project_id),
    ]


def provider_headers(provider_id: str, signature: str) -> Headers:
    """The proof of provider mode (spec 3.3)."""
    return [(PROVIDER_ID, provider_id), (PROVIDER_SIGNATURE, signature)]


def read_header(environ: Environ, name: str) -> str | None:
    """One identity header as received, None if absent; several values are a `BadRequest`."""
    return _single(environ, name)


def to_agent(environ: Environ) -> Headers:
    """The guest's headers that pass the hop from proxy to agent."""
    return [(name, environ[key]) for key, name in _TO_AGENT if environ.get(key)]


def to_nova(environ: Environ) -> Headers:
    """The guest's headers that pass the hop from agent to Nova, with the forced encoding (W-14)."""
    headers = [(name, environ[key]) for key, name in _TO_NOVA if environ.get(key)]
    headers.append(("Accept-Encoding", "identity"))
    return headers


def from_nova(headers: Iterable[tuple[str, str]]) -> Headers:
    """The response headers of W-12; Content-Length is not among them, it is made anew."""
    return _pass(headers, _FROM_NOVA)


def from_agent(headers: Iterable[tuple[str, str]]) -> Headers:
    """As `from_nova`, and the agent's own request id."""
    return _pass(headers, _FROM_AGENT)


def _pass(headers: Iterable[tuple[str, str]], names: frozenset[str]) -> Headers:
    return [(name, one_line(value).strip(" \t")) for name, value in headers if name.lower() in names]


def one_line(value: str) -> str:
    """A header value or reason phrase of an upstream, folded lines and control characters made spaces."""
    if _is_plain(value) or not _CONTROL.search(value):
        return value
    return " ".join(_CONTROL.sub(" ", value).split())


def printable(text: str) -> str:
    """`text` for a terminal: a question mark stands for each control, format or surrogate character."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)


def _is_plain(value: str) -> bool:
    """Whether it is ASCII from space to tilde, as almost always; much quicker than a regular expression."""
    return value.isascii() and value.isprintable()
