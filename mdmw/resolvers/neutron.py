"""The resolver that asks Neutron's REST API, with the queries of spec 2.5."""

import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import ClassVar
from urllib.parse import quote, urlencode

import requests
from oslo_config import cfg

from mdmw.errors import Unavailable
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers import credential_options, credentials
from mdmw.resolvers.keystone import Keystone
from mdmw.resolvers.matching import Port
from mdmw.resolvers.pages import Query, items
from mdmw.resolvers.ports import PortResolver, port_of
from mdmw.resolvers.snapshot import Snapshot
from mdmw.resolvers.token_store import store_for
from mdmw.upstream import transport
from mdmw.upstream.settings import limit_options, limits_of

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
MOST_TO_NAME = 400  # of more networks none is named, and the answer is sifted
LONGEST_PAUSE = 30  # seconds, however long Neutron wants to be left alone

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
    """Asks for each source anew; what may be remembered is the cache's business."""

    contract_version = 1
    options: ClassVar[list[cfg.Opt]] = [
        *credential_options.OPTIONS,
        *limit_options("neutron", read_timeout=5.0, total_timeout=10.0),
        cfg.IntOpt(
            "prefetch_max_ports",
            default=10000,
            min=0,
            help="Ports of a network, or of all networks of a router, that are fetched at once at most; "
            "of larger ones each port is asked for by itself.",
        ),
    ]

    def __init__(self, settings: SimpleNamespace) -> None:
        found = credentials.load(settings)
        limits = limits_of(settings, "neutron")
        if found.timeout:
            limits = replace(limits, read_timeout=min(found.timeout, limits.total_timeout))
        store = store_for(found.plugin.get_cache_id(), settings.place)
        super().__init__(RestQueries(Keystone(found, limits, store).get, settings.prefetch_max_ports))
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

    `get(path)` fetches what is below Neutron's address, and raises `Unavailable`.
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
        """None, and no further page, as soon as there are more than `prefetch_max_ports`."""
        most = self._prefetch_max_ports
        ports = list(islice(self._of_each(networks, []), most + 1))
        return ports if len(ports) <= most else None

    # --- many networks ------------------------------------------------------------------

    def _on(self, networks: Sequence[str], query: Query) -> Iterator[Port]:
        if len(networks) <= MOST_TO_NAME:
            return self._of_each(networks, query)
        return _sifted(self._ports(query, _PORT_FIELDS), networks)

    def _of_each(self, networks: Sequence[str], query: Query) -> Iterator[Port]:
        """Piece by piece (R-9); one that is too long is halved, and so are all that follow."""
        start = 0
        while start < len(networks):
            piece = networks[start : start + self._in_a_query]
            named = [("network_id", network) for network in piece]
            try:
                yield from _sifted(self._ports([*named, *query], _PORT_FIELDS), piece)
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
            raise Unavailable("Neutron wants to be left alone for a moment", math.ceil(pause))
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
    """The query has to be cut in pieces."""


def _sifted(ports: Iterable[Port], networks: Collection[str]) -> Iterator[Port]:
    """R-1: what is elsewhere does not count, whatever Neutron made of the question."""
    wanted = frozenset(networks)
    return (port for port in ports if port.network_id in wanted)


def _retry_after(response: requests.Response) -> int:
    """Seconds, 1 unless Neutron says something else that is sensible."""
    text = response.headers.get("Retry-After", "")
    return min(max(int(text), 1), LONGEST_PAUSE) if _SECONDS.fullmatch(text) else 1
