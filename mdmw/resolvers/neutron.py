"""The resolver that asks Neutron's REST API (spec 2.5), and what it shares with the resolver over RPC."""

import json
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import requests
from oslo_config import cfg

from mdmw.errors import NotIdentified, Unavailable
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers import keystone
from mdmw.resolvers.contract import Port, Reach, Snapshot, choose, wanted_mac
from mdmw.resolvers.keystone import Keystone, store_for
from mdmw.upstream import transport
from mdmw.upstream.settings import limit_options, limits_of

_NO_ROUTER = "00000000-0000-0000-0000-000000000000"


class PortQueries(Protocol):
    """Queries for the ports of Neutron. Every method raises `Unavailable` for a temporary fault.

    `networks` is never empty, since a query without networks would search everywhere (R-2).
    """

    def router_interfaces(self, router_id: str) -> Sequence[Port]:
        """The ports of a router whose owner is one of `ROUTER_INTERFACE_OWNERS`."""

    def by_address(self, networks: Sequence[str], address: str) -> Sequence[Port]:
        """The ports on these networks with this fixed address."""

    def by_mac(self, networks: Sequence[str], mac: str) -> Sequence[Port]:
        """The ports on these networks with this MAC."""

    def everything(self, networks: Sequence[str]) -> Sequence[Port] | None:
        """All ports on these networks; None when they are too many for one question."""


class PortResolver:
    """A resolver over `PortQueries`, with snapshots."""

    def __init__(self, queries: PortQueries) -> None:
        self._queries = queries

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:  # noqa: ARG002 - nothing is cached
        """The one instance behind `source` (spec 2.1)."""
        mac = wanted_mac(source)
        reach = self._reach(source.scope)
        if mac:
            ports = self._queries.by_mac(reach.networks, mac)
        else:
            ports = self._queries.by_address(reach.networks, source.address)
        return choose(ports, source, reach.subnets)

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """All ports that `scope` reaches; None when they are too many."""
        reach = self._reach(scope)
        ports = self._queries.everything(reach.networks)
        return None if ports is None else Snapshot(ports, reach.subnets)

    def check(self) -> str:
        """Ask Neutron for the ports of a router that does not exist; raises `Unavailable`."""
        self._queries.router_interfaces(_NO_ROUTER)
        return "Neutron answers"

    def _reach(self, scope: Scope) -> Reach:
        """R-1 and R-2: raises `NotIdentified` for a router without interfaces."""
        if scope.kind == "network":
            return Reach((scope.id,))
        interfaces = self._queries.router_interfaces(scope.id)
        if not interfaces:
            raise NotIdentified(f"{scope} has no interfaces")
        networks = tuple(dict.fromkeys(port.network_id for port in interfaces))
        return Reach(networks, frozenset(subnet for port in interfaces for _, subnet in port.fixed_ips))


def port_of(fields: Mapping[str, Any]) -> Port:
    """The port in an answer of Neutron, over REST or RPC; raises `Unavailable` for a malformed one."""
    try:
        return Port(
            id=_text(fields["id"]),
            network_id=_text(fields["network_id"]),
            mac=_text(fields.get("mac_address") or ""),
            device_id=_text(fields.get("device_id") or ""),
            device_owner=_text(fields.get("device_owner") or ""),
            project_id=_text(fields.get("project_id") or fields.get("tenant_id") or ""),
            fixed_ips=tuple(
                (_text(fixed["ip_address"]), _text(fixed["subnet_id"])) for fixed in fields["fixed_ips"]
            ),
        )
    except KeyError as error:
        raise Unavailable(f"Neutron: a port in the answer has no {error}") from None
    except (TypeError, AttributeError):
        raise Unavailable("Neutron: a port in the answer is malformed") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


Query = list[tuple[str, str]]

PAGE = 1000  # items
MOST_PAGES = 200


def items(kind: str, query: Query, fields: Sequence[str], page: Callable[[Query], bytes]) -> Iterator[Any]:
    """All items of a kind (for example `ports`) that match a query, from every page.

    `page` fetches the body of one page. Of a link to the next page only the marker is used, so that a link
    cannot lead elsewhere. Raises `Unavailable` for a malformed answer.
    """
    query = [*query, *(("fields", name) for name in fields), ("limit", str(PAGE))]
    markers: list[str] = []
    while len(markers) < MOST_PAGES:
        found = _parsed(kind, page([*query, *(("marker", marker) for marker in markers[-1:])]))
        yield from found[kind]
        marker = _next_marker(kind, found)
        if marker is None:
            return
        if marker in markers:
            break
        markers.append(marker)
    raise Unavailable(f"Neutron: a list of {kind} with no end ({len(markers)} pages)")


def _parsed(kind: str, body: bytes) -> dict[str, Any]:
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict) or not isinstance(page.get(kind), list):
        raise Unavailable(f"Neutron: the answer is not a list of {kind}")
    return page


def _next_marker(kind: str, page: Mapping[str, Any]) -> str | None:
    """The marker of the next page; None after the last page."""
    try:
        links = [link["href"] for link in page.get(f"{kind}_links") or () if link["rel"] == "next"]
        return parse_qs(urlsplit(links[0]).query)["marker"][-1] if links else None
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Unavailable("Neutron: the link to the next page has no marker") from None


#: The order is that of spec 2.5.
_ROUTER_OWNERS = (
    "network:router_interface",
    "network:ha_router_replicated_interface",
    "network:router_interface_distributed",
)
_ROUTER_FIELDS = ("id", "network_id", "fixed_ips")
_PORT_FIELDS = (
    "id",
    "device_id",
    "device_owner",
    "network_id",
    "project_id",
    "tenant_id",
    "mac_address",
    "fixed_ips",
)

MOST_IN_A_QUERY = 100  # networks
MOST_TO_NAME = 400  # networks; a query for more names none of them, and the answer is filtered
LONGEST_PAUSE = 30  # seconds, even when Neutron's Retry-After is longer

_SECONDS = re.compile("[0-9]{1,9}")
_TOO_LONG = re.compile(rb"(ur[il]|request[- ]line).{0,40}too (long|large)", re.IGNORECASE | re.DOTALL)
_REASONS = {
    401: "the token is refused",
    403: "the user may not list ports",
    404: "there is no Neutron at this address",
    413: "it wants to be asked less often",
    429: "it wants to be asked less often",
}


class NeutronResolver(PortResolver):
    """The resolver `neutron`. It asks for each source; the cache in front of it remembers the answers."""

    contract_version = 1
    options: ClassVar[list[cfg.Opt]] = [
        *keystone.OPTIONS,
        *limit_options("neutron", read_timeout=5.0, total_timeout=10.0),
        cfg.IntOpt(
            "prefetch_max_ports",
            default=10000,
            min=0,
            help="The resolver fetches all ports of a network, or of the networks of a router, at once when "
            "they are at most this many. For more ports it asks for each guest.",
        ),
    ]

    def __init__(self, settings: SimpleNamespace) -> None:
        found = keystone.load_credentials(settings)
        limits = limits_of(settings, "neutron")
        if found.timeout:
            limits = replace(limits, read_timeout=min(found.timeout, limits.total_timeout))
        store = store_for(found.plugin.get_cache_id(), settings.place)
        requests = Keystone(found, limits, store)
        super().__init__(RestQueries(requests.get, settings.prefetch_max_ports))
        self.measurements = requests.measurements
        self._total_timeout = limits.total_timeout

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:
        """The one instance behind `source` (spec 2.1), within `neutron_total_timeout`."""
        with transport.within(self._total_timeout):
            return super().resolve(source, fresh=fresh)

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """All ports that `scope` reaches; None when they are more than `prefetch_max_ports`."""
        with transport.within(self._total_timeout):
            return super().snapshot(scope)


class RestQueries:
    """`PortQueries` by `GET /v2.0/ports`. Thread-safe.

    `get(path)` sends a GET of a path below Neutron's address, and raises `Unavailable`.
    """

    def __init__(self, get: Callable[[str], requests.Response], prefetch_max_ports: int) -> None:
        self._get = get
        self._prefetch_max_ports = prefetch_max_ports
        self._in_a_query = MOST_IN_A_QUERY
        self._pause_until = -math.inf

    def router_interfaces(self, router_id: str) -> Sequence[Port]:
        """R-2."""
        owners = [("device_owner", owner) for owner in _ROUTER_OWNERS]
        return list(self._ports([("device_id", router_id), *owners], _ROUTER_FIELDS))

    def by_address(self, networks: Sequence[str], address: str) -> Sequence[Port]:
        """R-3."""
        return list(self._on(networks, [("fixed_ips", f"ip_address={address}")]))

    def by_mac(self, networks: Sequence[str], mac: str) -> Sequence[Port]:
        """R-7, R-8."""
        return list(self._on(networks, [("mac_address", mac)]))

    def everything(self, networks: Sequence[str]) -> Sequence[Port] | None:
        """See `PortQueries`; None after the page with port number `prefetch_max_ports` + 1."""
        most = self._prefetch_max_ports
        ports = list(islice(self._of_each(networks, []), most + 1))
        return ports if len(ports) <= most else None

    # --- many networks ------------------------------------------------------------------

    def _on(self, networks: Sequence[str], query: Query) -> Iterator[Port]:
        if len(networks) <= MOST_TO_NAME:
            return self._of_each(networks, query)
        return _only_on(self._ports(query, _PORT_FIELDS), networks)

    def _of_each(self, networks: Sequence[str], query: Query) -> Iterator[Port]:
        """Ports of many networks, in several queries (R-9); a query that is too long is halved."""
        start = 0
        while start < len(networks):
            piece = networks[start : start + self._in_a_query]
            named = [("network_id", network) for network in piece]
            try:
                yield from _only_on(self._ports([*named, *query], _PORT_FIELDS), piece)
            except _TooLong as error:
                if len(piece) == 1:
                    raise Unavailable(f"Neutron: {error}, though it is for one network") from None
                self._in_a_query = min(self._in_a_query, len(piece) // 2)
            else:
                start += len(piece)

    def _ports(self, query: Query, fields: Sequence[str]) -> Iterator[Port]:
        """R-10: every page."""
        return map(port_of, items("ports", query, fields, self._page))

    def _page(self, query: Query) -> bytes:
        pause = self._pause_until - time.monotonic()
        if pause > 0:
            raise Unavailable("Neutron asked for a pause", math.ceil(pause))
        response = self._get(f"/v2.0/ports?{urlencode(query, quote_via=quote, safe='')}")
        if response.status_code != 200:
            raise self._refusal(response)
        return response.content

    def _refusal(self, response: requests.Response) -> Exception:
        status = response.status_code
        if status == 414 or (status == 400 and _TOO_LONG.search(response.content)):
            return _TooLong(f"the query is too long ({status})")
        retry_after = _retry_after(response)
        if status in (413, 429):
            self._pause_until = time.monotonic() + retry_after
        reason = _REASONS.get(status, "a redirect is not followed" if 300 <= status < 400 else "")
        return Unavailable(f"Neutron answers {status}{reason and ': '}{reason}", retry_after)


class _TooLong(Exception):
    """The query is too long and must be split."""


def _only_on(ports: Iterable[Port], networks: Collection[str]) -> Iterator[Port]:
    """R-1: the ports on these networks. Ports on other networks do not count, even in Neutron's answer."""
    wanted = frozenset(networks)
    return (port for port in ports if port.network_id in wanted)


def _retry_after(response: requests.Response) -> int:
    """The seconds in Retry-After, from 1 to 30; 1 when the header is missing or malformed."""
    text = response.headers.get("Retry-After", "")
    return min(max(int(text), 1), LONGEST_PAUSE) if _SECONDS.fullmatch(text) else 1
