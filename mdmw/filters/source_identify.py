"""source-identify: who asks? The one trust boundary.

Reads: the TCP peer, or in `mode = relay` the identity headers of a trusted hop.
Writes: `mdmw.source`, and removes from the environ every header by which a guest
could claim an identity (W-1, W-2).
Answers: 400 for a source that cannot be, and the refusals of W-6, W-7, W-9, W-10.
Place: first.
"""

import ipaddress
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace

from oslo_config import cfg

from mdmw import wire
from mdmw.boundary.peer import LISTENER_MAC, LISTENER_SCOPE, listener_keys, neighbour_mac
from mdmw.boundary.stage import App, Filter
from mdmw.errors import BadRequest, ConfigError, Contradiction, Unavailable
from mdmw.observe.journal import FORGED, journal_of, note, trust_hop
from mdmw.options import load, refuse
from mdmw.records import SOURCE, Environ, Scope, Source, is_uuid, normalise_address
from mdmw.reloading import ReloadingFile
from mdmw.signing import RELAY_SECRET, Signer, relay_signer, secret_options

OPTIONS = [
    cfg.StrOpt(
        "mode",
        required=True,
        choices=[
            ("fixed", "every guest is on the network or behind the router named here"),
            ("listener", "the listener that accepted the connection tells: the server, or listeners_file"),
            ("relay", "a trusted proxy tells, in headers"),
        ],
        help="How the source is known.",
    ),
    cfg.StrOpt("network_id", help="mode fixed: UUID of the network that the guests are on."),
    cfg.StrOpt("router_id", help="mode fixed: UUID of the router that the guests are behind."),
    cfg.StrOpt(
        "address",
        help="mode fixed: the address of the one guest that can reach this listener, where the connection "
        "does not show it (user-mode networking, a unix socket). Default: the address of the TCP peer.",
    ),
    cfg.BoolOpt(
        "client_mac",
        default=False,
        help="mode fixed and listener: tell the agent the MAC of the guest. Finds guests whose IPv6 "
        "link-local address hides it (RFC 7217), and keeps an agent that remembers addresses from mistaking "
        "a new guest for the one that had its address before. It is from the neighbour table of this "
        "process's namespace; in mode listener from a server that knows it, which is mdmw-node.",
    ),
    cfg.StrOpt(
        "listeners_file",
        help='mode listener: JSON object from a listener to {"network": UUID} or {"router": UUID}, '
        'with "address" as above. A listener is "netns:COOKIE", "ADDRESS:PORT", "port:PORT", "unix:PATH" or '
        "what the server puts into the environ as mdmw.listener. Read again when it changes. Default: none; "
        "mdmw-node needs none.",
    ),
    cfg.ListOpt(
        "relay_peers",
        default=[],
        help="mode relay: addresses or networks of the proxies that may connect over TCP; "
        "they must sign. Peers on a unix socket need no listing: the socket's mode decides.",
    ),
    *secret_options(RELAY_SECRET, "mode relay: the key that proxies on TCP sign with."),
    cfg.FloatOpt(
        "relay_max_age", default=30.0, min=1.0, help="mode relay: seconds for which a signature is good."
    ),
    cfg.BoolOpt(
        "trust_client_mac",
        default=False,
        help="mode relay: believe what proxies on the unix socket say of a guest's MAC, of the request's id "
        "and of its trace, without a signature. Only where none of them is haproxy, which passes on what a "
        "guest says of these.",
    ),
    cfg.BoolOpt("strict_ids", default=True, help="mode relay: refuse ids that are not UUIDs."),
    cfg.IntOpt("max_target", default=8192, min=256, help="Longest request target, in bytes."),
    cfg.IntOpt("max_headers", default=32768, min=1024, help="Most header bytes in a request."),
]

_REMEMBERED = 16384  # sources
_SECONDS = re.compile(r"[0-9]{1,12}")
_UNIX_PEERS = ("", "localhost")
_UNIX_PATH = ("/", "@", "\0")

Identify = Callable[[Environ], Source]


class SourceIdentify(Filter):
    """Writes `mdmw.source`; `identify` is one of the three ways of knowing it."""

    stage = "identify"
    provides = frozenset({SOURCE})

    def __init__(self, app: App, identify: Identify, max_target: int, max_headers: int) -> None:
        super().__init__(app)
        self._identify = identify
        self._by_guest = not isinstance(identify, Relay)
        self._max_target = max_target
        self._max_headers = max_headers

    def prepare(self, environ: Environ) -> None:
        environ.pop(SOURCE, None)
        try:
            wire.check_request(environ, self._max_target, self._max_headers)
            source = self._identify(environ)
        finally:
            claims = wire.strip(environ)
            if claims and self._by_guest:
                note(journal_of(environ), FORGED, claims)
        environ[SOURCE] = source


@dataclass(frozen=True, slots=True)
class Place:
    """What a listener tells: the scope of its guests, and the address if there is only one guest."""

    scope: Scope
    address: str | None = None

    def source(self, environ: Environ) -> Source:
        """The source of a request that came in here."""
        peer = self.address or environ.get("REMOTE_ADDR")
        return _source(peer, self.scope, wire.forwarded_for(environ) is not None)


def by_listener(table: ReloadingFile[Mapping[str, Place]] | None) -> Identify:
    """The place is that of the listener that accepted the connection; what the server says comes first."""

    def identify(environ: Environ) -> Source:
        scope = environ.get(LISTENER_SCOPE)
        if isinstance(scope, Scope):
            return Place(scope).source(environ)
        places = table.value() if table else {}
        keys = listener_keys(environ)
        for key in keys:
            if key in places:
                return places[key].source(environ)
        raise BadRequest(f"no scope for listener {' or '.join(keys) or 'unknown'}")

    return identify


def with_mac(identify: Identify) -> Identify:
    """Adds the MAC that the kernel saw (R-8)."""

    def seen(environ: Environ) -> Source:
        source = identify(environ)
        try:
            return replace(source, mac=neighbour_mac(source.address))
        except OSError as error:
            raise Unavailable(f"the neighbour table cannot be read: {error}") from None

    return seen


def with_told_mac(identify: Identify) -> Identify:
    """Adds the MAC that the server tells (R-8). The neighbours of this process may be other guests."""

    def seen(environ: Environ) -> Source:
        source = identify(environ)
        ask = environ.get(LISTENER_MAC)
        return replace(source, mac=ask()) if ask else source

    return seen


class Relay:
    """A trusted hop says who asks; on TCP it must be a listed peer, and sign, on granian always sign.

    A MAC, a request id and a trace count only from who signs, unless every proxy is one that
    removes what guests say of them.
    """

    def __init__(
        self,
        peers: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
        signer: Signer | None,
        max_age: float,
        strict_ids: bool,
        trust_client_mac: bool,
    ) -> None:
        self._peers = peers
        self._signer = signer
        self._max_age = max_age
        self._strict_ids = strict_ids
        self._trust_client_mac = trust_client_mac

    def __call__(self, environ: Environ) -> Source:
        peer = _tcp_peer(environ)
        if peer is not None:
            self._check_peer(peer)
        must_sign = peer is not None or _hides_spellings(environ)
        signs = must_sign or (self._signer is not None and wire.relay_signature(environ) is not None)
        source = wire.read_source(environ, self._strict_ids, with_mac=signs or self._trust_client_mac)
        if signs:
            self._check_signature(environ, source)
        if signs or self._trust_client_mac:
            trust_hop(environ)
        return source

    def _check_peer(self, peer: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        if not any(peer in network for network in self._peers):
            raise Contradiction(f"{peer} is not in relay_peers")

    def _check_signature(self, environ: Environ, source: Source) -> None:
        timestamp, _, signature = (wire.relay_signature(environ) or "").partition(":")
        if not _SECONDS.fullmatch(timestamp) or abs(time.time() - int(timestamp)) > self._max_age:
            raise BadRequest("the relay's signature is missing or too old; look at the clocks")
        message = wire.relay_message(
            timestamp, environ["REQUEST_METHOD"], wire.request_target(environ), wire.source_headers(source)
        )
        if self._signer is None or not self._signer.verifies(message, signature):
            raise Contradiction(f"the relay's signature for {source} does not fit")


def _hides_spellings(environ: Environ) -> bool:
    """Whether the server lets X_Name replace X-Name unseen.

    Others drop such names, or show both values. Behind a proxy that passes a guest's
    underscores, as haproxy does, only the signature then tells who wrote a header (W-2).
    """
    return str(environ.get("SERVER_SOFTWARE", "")).startswith("Granian")


@lru_cache(maxsize=_REMEMBERED)
def _source(peer: str | None, scope: Scope, forwarded: bool) -> Source:
    if not peer:
        raise BadRequest("the server does not say where the connection came from")
    return Source(normalise_address(peer), scope, forwarded=forwarded)


def _tcp_peer(environ: Environ) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The peer's address, or None on a unix socket, where servers say "", "localhost" or 0.0.0.0.

    Some say the path of a client that bound its own socket. Anything else could be
    what a server took from a header, and is no reason to trust.
    """
    text = (environ.get("REMOTE_ADDR") or "").partition("%")[0]
    if text in _UNIX_PEERS or text.startswith(_UNIX_PATH):
        return None
    try:
        peer = ipaddress.ip_address(text)
    except ValueError:
        raise BadRequest(f"{text!r} is neither the address of a peer nor a unix socket") from None
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
        peer = peer.ipv4_mapped
    return None if peer.is_unspecified else peer


# --- strings to settings ----------------------------------------------------------------


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], SourceIdentify]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("source-identify", OPTIONS, global_conf, local_conf)
    identify = _IDENTIFY[settings.mode](settings)
    return partial(
        SourceIdentify,
        identify=identify,
        max_target=settings.max_target,
        max_headers=settings.max_headers,
    )


def _fixed(settings: SimpleNamespace) -> Identify:
    _only(settings, {"network_id", "router_id", "address", "client_mac"})
    if bool(settings.network_id) == bool(settings.router_id):
        raise refuse(settings, "network_id", "mode fixed takes exactly one of network_id and router_id")
    option = "network_id" if settings.network_id else "router_id"
    value = getattr(settings, option)
    try:
        place = _place(option.removesuffix("_id"), value, settings.address)
    except ValueError as error:
        raise refuse(settings, option if not is_uuid(value) else "address", str(error)) from None
    return with_mac(place.source) if settings.client_mac else place.source


def _listener(settings: SimpleNamespace) -> Identify:
    _only(settings, {"listeners_file", "client_mac"})
    table: ReloadingFile[Mapping[str, Place]] | None = None
    if settings.listeners_file:
        try:
            table = ReloadingFile(settings.listeners_file, read_listeners)
        except ConfigError as error:
            raise refuse(settings, "listeners_file", str(error)) from None
    identify = by_listener(table)
    return with_told_mac(identify) if settings.client_mac else identify


def _relay(settings: SimpleNamespace) -> Identify:
    of_relays = {"relay_peers", "trust_client_mac"}
    _only(settings, of_relays | {RELAY_SECRET, f"{RELAY_SECRET}_file", f"{RELAY_SECRET}_key_file"})
    try:
        peers = [ipaddress.ip_network(peer) for peer in settings.relay_peers]
    except ValueError as error:
        raise refuse(settings, "relay_peers", f"{error}; addresses or networks are allowed") from None
    signer = relay_signer(settings)
    if peers and signer is None:
        raise refuse(settings, RELAY_SECRET, "a relay over TCP (relay_peers) needs a shared key")
    return Relay(peers, signer, settings.relay_max_age, settings.strict_ids, settings.trust_client_mac)


_IDENTIFY: dict[str, Callable[[SimpleNamespace], Identify]] = {
    "fixed": _fixed,
    "listener": _listener,
    "relay": _relay,
}
_OF_ONE_MODE = (
    "network_id",
    "router_id",
    "address",
    "client_mac",
    "listeners_file",
    "relay_peers",
    "trust_client_mac",
    RELAY_SECRET,
    f"{RELAY_SECRET}_file",
    f"{RELAY_SECRET}_key_file",
)


def _only(settings: SimpleNamespace, allowed: set[str]) -> None:
    for option in _OF_ONE_MODE:
        if getattr(settings, option) and option not in allowed:
            raise refuse(settings, option, f"does not go with mode = {settings.mode}")


def read_listeners(path: Path) -> dict[str, Place]:
    """The table of `listeners_file`; raises `ConfigError` naming the entry."""
    try:
        table = json.loads(path.read_text("utf-8"), object_pairs_hook=_without_doubles)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: a JSON object from listener to scope is allowed")
    places = {}
    for listener, entry in table.items():
        try:
            places[listener] = _entry(entry)
        except ValueError as error:
            raise ConfigError(f"{path}: listener {listener!r}: {error}") from None
    return places


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{double!r} is there twice")
    return table


def _entry(entry: object) -> Place:
    fields = dict(entry) if isinstance(entry, dict) else {}
    address = fields.pop("address", None)
    kind, value = fields.popitem() if len(fields) == 1 else ("", None)
    if kind not in ("network", "router") or not isinstance(value, str) or not isinstance(address, str | None):
        raise ValueError('{"network": UUID} or {"router": UUID} is allowed, and "address": IP')
    return _place(kind, value, address)


def _place(kind: str, value: str, address: str | None) -> Place:
    if not is_uuid(value):
        raise ValueError(f"{value!r} is not a UUID")
    try:
        return Place(Scope("router" if kind == "router" else "network", value), _normal(address))
    except BadRequest as error:
        raise ValueError(str(error)) from None


def _normal(address: str | None) -> str | None:
    return None if address is None else normalise_address(address)
