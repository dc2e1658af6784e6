"""The resolver that asks Neutron over RPC, as Neutron's own metadata agent does.

All the configuration it needs is that agent's `transport_url`.
"""

import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

from oslo_config import cfg

from mdmw.errors import Unavailable
from mdmw.options import refuse
from mdmw.resolvers.matching import ROUTER_INTERFACE_OWNERS, Port
from mdmw.resolvers.ports import PortResolver, port_of
from mdmw.resolvers.rpc import NeutronRpc, NoAnswer

_TOPIC = "q-plugin"
_VERSION = "1.0"
_PAUSE = 60.0  # seconds


class NeutronRpcResolver(PortResolver):
    """Spec 2.1 over the call `get_ports`."""

    contract_version = 1
    options: ClassVar[list[cfg.Opt]] = [
        cfg.StrOpt(
            "transport_url",
            secret=True,
            help="RabbitMQ of Neutron, as in neutron.conf: rabbit://USER:PASSWORD@HOST:5672/. What else "
            "oslo.messaging reads, such as [oslo_messaging_rabbit], comes from the files of config_file.",
        ),
        cfg.FloatOpt(
            "neutron_timeout",
            default=5.0,
            min=0.1,
            max=30.0,
            help="Seconds for one query to Neutron; a router takes two. The guest's proxy waits 30 s.",
        ),
    ]

    def __init__(self, settings: SimpleNamespace) -> None:
        if not has_transport(settings):
            raise refuse(settings, "transport_url", "is required")
        rpc = NeutronRpc(settings.config, settings.place, settings.transport_url)
        super().__init__(RpcPorts(rpc, settings.neutron_timeout))


def has_transport(settings: SimpleNamespace) -> bool:
    """Whether a `transport_url` says where RabbitMQ is."""
    return bool(settings.transport_url)


class RpcPorts:
    """`PortQueries` over RPC, which knows neither pages nor fields."""

    def __init__(self, rpc: NeutronRpc, timeout: float) -> None:
        self._rpc = rpc
        self._timeout = timeout
        self._paused: dict[frozenset[str], float] = {}

    def router_interfaces(self, router_id: str) -> Sequence[Port]:
        """R-2, spec 2.2."""
        return self._get_ports({"device_id": [router_id], "device_owner": list(ROUTER_INTERFACE_OWNERS)})

    def by_address(self, networks: Sequence[str], address: str) -> Sequence[Port]:
        """R-3."""
        return self._on(networks, {"fixed_ips": {"ip_address": [address]}})

    def by_mac(self, networks: Sequence[str], mac: str) -> Sequence[Port]:
        """R-3, for a link-local source."""
        return self._on(networks, {"mac_address": [mac]})

    def everything(self, networks: Sequence[str]) -> Sequence[Port] | None:
        """All ports; None when Neutron could not list them in time, and then for a minute.

        Single ports may well be found in that minute.
        """
        key = frozenset(networks)
        if time.monotonic() < self._paused.get(key, 0.0):
            return None
        try:
            return self._on(networks, {})
        except NoAnswer:
            self._paused[key] = time.monotonic() + _PAUSE
            return None

    def _on(self, networks: Sequence[str], filters: Mapping[str, Any]) -> list[Port]:
        ports = self._get_ports({**filters, "network_id": list(networks)})
        return [port for port in ports if port.network_id in networks]

    def _get_ports(self, filters: Mapping[str, Any]) -> list[Port]:
        answer = self._rpc.call(_TOPIC, _VERSION, self._timeout, "get_ports", filters=filters)
        if not isinstance(answer, list):
            raise Unavailable(f"Neutron answered get_ports with {type(answer).__name__}, not with ports")
        return [port_of(fields) for fields in answer]
