"""What neutron-rpc-server does for a metadata agent, over the real oslo.messaging."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg
from peers import PATIENCE

from mdmw.options import ConfigFiles
from mdmw.resolvers.contract import Port
from mdmw.resolvers.neutron_rpc import NeutronRpcResolver
from mdmw.testing.resolvers import World

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import oslo_messaging


# Be back as soon as RabbitMQ is, and do not wait a minute for who does not want his answer any more.
_QUICK = "?rabbit_interval_max=1&kombu_missing_consumer_retry_timeout=15"


class Plugin:
    """Serves `get_ports`, topic q-plugin; `instead`, when set, is called with the filters in its place."""

    target = oslo_messaging.Target(version="1.0")

    def __init__(self, world: World) -> None:
        self._ports = [described(port) for port in world.ports]
        self.calls: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.instead: Callable[[dict[str, Any]], Any] | None = None

    def get_ports(self, context: dict[str, Any], filters: dict[str, Any]) -> Any:
        self.calls.append((context, filters))
        return self.instead(filters) if self.instead else self.answer(filters)

    def answer(self, filters: dict[str, Any]) -> list[dict[str, Any]]:
        return [port for port in self._ports if _fits(port, filters)]


class Reports:
    """Takes state reports, topic q-reports-plugin."""

    target = oslo_messaging.Target(version="1.4")

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.received: list[dict[str, Any]] = []

    def report_state(self, context: dict[str, Any], agent_state: dict[str, Any], time: str) -> str:
        assert context["is_admin"] is True
        with self._condition:
            self.received.append(agent_state["agent_state"] | {"time": time})
            self._condition.notify_all()
        return "alive"

    def wait_for(self, count: int) -> None:
        self.wait_until(lambda: len(self.received) >= count)

    def wait_until(self, holds: Callable[[], Any]) -> None:
        with self._condition:
            assert self._condition.wait_for(holds, PATIENCE), self.received


@contextmanager
def serving(url: str, topic: str, endpoint: object) -> Iterator[None]:
    """Serve the methods of `endpoint` on a topic of Neutron's."""
    conf = cfg.CONF  # the one with which oslo.messaging works as it comes
    conf(args=[], project="mdmw", default_config_files=[])
    transport = oslo_messaging.get_rpc_transport(conf, url + _QUICK)
    target = oslo_messaging.Target(exchange="neutron", topic=topic, server="neutron")
    server = oslo_messaging.get_rpc_server(transport, target, [endpoint])
    server.start()
    try:
        yield
    finally:
        server.stop()
        server.wait()
        transport.cleanup()


def resolver_at(url: str, timeout: float = 5.0) -> NeutronRpcResolver:
    return NeutronRpcResolver(
        SimpleNamespace(transport_url=url, neutron_timeout=timeout, config=ConfigFiles(), place="test")
    )


@contextmanager
def resolving(url: str, timeout: float = 5.0) -> Iterator[NeutronRpcResolver]:
    """A resolver whose connections are closed after the test; RabbitMQ must be in reach by then."""
    resolver = resolver_at(url, timeout)
    try:
        yield resolver
    finally:
        resolver._queries._rpc.close(PATIENCE)


def described(port: Port) -> dict[str, Any]:
    """A port with the names, and some of the other fields, that Neutron gives it."""
    return {
        "id": port.id,
        "name": "",
        "status": "ACTIVE",
        "network_id": port.network_id,
        "mac_address": port.mac,
        "device_id": port.device_id,
        "device_owner": port.device_owner,
        "project_id": port.project_id,
        "tenant_id": port.project_id,
        "fixed_ips": [{"ip_address": address, "subnet_id": subnet} for address, subnet in port.fixed_ips],
        "binding:host_id": "compute-1",
        "security_groups": [],
    }


def _fits(port: dict[str, Any], filters: dict[str, Any]) -> bool:
    """Different keys mean AND, several values OR, as in Neutron's data base layer."""
    wanted = dict(filters)
    addresses = wanted.pop("fixed_ips", {}).get("ip_address")
    if addresses and not any(fixed["ip_address"] in addresses for fixed in port["fixed_ips"]):
        return False
    return all(port[name] in values for name, values in wanted.items())
