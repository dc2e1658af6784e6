"""The resolver that asks Neutron over RPC, as Neutron's own metadata agent does.

The only option that it needs is `transport_url`, which that agent has too.
"""

import contextlib
import importlib
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

from oslo_config import cfg

from mdmw.errors import ConfigError, Overloaded, Unavailable
from mdmw.options import ConfigFiles, refuse
from mdmw.resolvers.contract import ROUTER_INTERFACE_OWNERS, Port
from mdmw.resolvers.neutron import PortResolver, port_of
from mdmw.upstream.exchange import Slots

#: Exchange of RabbitMQ for messages to Neutron, unless `control_exchange` in the files is another.
EXCHANGE = "neutron"

_RABBIT = "oslo_messaging_rabbit"
# oslo.messaging asks for these at each message, but registers them on the global cfg.CONF only.
_SWITCHES = (("oslo_messaging_metrics", "metrics_enabled"), ("oslo_messaging_tracing", "tracing_enabled"))
_UNDER_WAY = 10  # calls at the same time; each takes a connection
_WAITING = 1000
_RECONNECT_INTERVAL = 2  # seconds at most; with 30 as in oslo.messaging, guests get 503 for 30 s more
_NOWHERE = "mdmw"  # a topic without listeners
_LONGEST = 200  # characters of an error


class NoAnswer(Unavailable):
    """A call got no answer in time."""


class NeutronRpc:
    """Calls to Neutron over RabbitMQ. The first call connects.

    `transport_url` and the files are those of Neutron, with the group `[oslo_messaging_rabbit]`. Raises
    `ConfigError` when they cannot be used, or when oslo.messaging is not installed.
    """

    def __init__(self, config: ConfigFiles, place: str, transport_url: str) -> None:
        self._messaging = _oslo_messaging(place)
        conf = config.parse(place)
        for group, option in _SWITCHES:
            conf.register_opt(cfg.BoolOpt(option), group)
            conf.set_override(option, False, group)
        try:
            transport = self._messaging.get_rpc_transport(conf, transport_url)
            url = self._messaging.TransportURL.parse(conf, transport_url)
        except (self._messaging.MessagingException, cfg.Error, ValueError):
            # The text of these errors may contain the password.
            raise ConfigError(
                f"{place}: option 'transport_url': not a URL such as rabbit://USER:PASSWORD@HOST:5672/, "
                "or one with an unknown driver or option"
            ) from None
        conf.set_default("control_exchange", EXCHANGE)
        if _RABBIT in conf:
            conf.set_default("rabbit_interval_max", _RECONNECT_INTERVAL, _RABBIT)
            _check(place, conf, _RABBIT)
        self._transport = transport
        self._exchange = conf.control_exchange
        self._slots = Slots(_UNDER_WAY, _WAITING)
        self.measurements = self._slots.measurements
        self._was_reached = False
        hosts = ",".join(f"{host.hostname}:{host.port or 5672}" for host in url.hosts)
        self._name = f"Neutron over {url.transport}://{hosts}"

    def call(self, topic: str, version: str, timeout: float, method: str, **arguments: Any) -> Any:
        """The answer of Neutron within `timeout` seconds; raises `Unavailable`."""
        client = self._client(topic, version, timeout)

        def send() -> Any:
            self._reach()
            return client.call(_context(), method, **arguments)

        return self._within(timeout, method, send)

    def cast(self, topic: str, version: str, timeout: float, method: str, **arguments: Any) -> None:
        """Send a message that has no answer; raises `Unavailable` when RabbitMQ does not take it."""
        client = self._client(topic, version, timeout)
        self._within(timeout, method, partial(client.cast, _context(), method, **arguments))

    def close(self, timeout: float) -> None:
        """Close the connections; gives up after `timeout` seconds."""
        with contextlib.suppress(Unavailable):
            self._within(timeout, "close", self._transport.cleanup)

    def _client(self, topic: str, version: str, timeout: float | None = None) -> Any:
        target = self._messaging.Target(exchange=self._exchange, topic=topic, version=version)
        # The retry is for an idle connection that RabbitMQ has closed.
        return self._messaging.get_rpc_client(self._transport, target, timeout=timeout, retry=1)

    def _reach(self) -> None:
        """Send a message without listeners before the first call.

        When RabbitMQ is down or refuses the user, this message fails with the reason. A call would only
        wait for its queue of answers.
        """
        if not self._was_reached:
            self._client(_NOWHERE, "1.0").prepare(retry=0).cast({}, "hello")
            self._was_reached = True

    def _within(self, timeout: float, method: str, send: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + timeout
        try:
            self._slots.acquire(timeout)
        except Overloaded as error:
            raise Overloaded(f"{self._name}: {method}: {error}") from None
        answer: Future[Any] = Future()
        thread = threading.Thread(target=self._run, args=(send, answer), name="neutron-rpc", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._slots.release()
            raise Unavailable(f"{self._name}: {method}: {error}") from None
        try:
            failure = answer.exception(max(0, deadline - time.monotonic()))
        except TimeoutError:
            raise NoAnswer(f"{self._name}: {method}: no answer within {timeout:g} s") from None
        if failure is not None:
            raise self._unavailable(timeout, method, failure) from None
        return answer.result()

    def _run(self, send: Callable[[], Any], answer: Future[Any]) -> None:
        try:
            answer.set_result(send())
        except BaseException as error:  # an exception in Neutron is raised here too
            answer.set_exception(error)
        finally:
            self._slots.release()

    def _unavailable(self, timeout: float, method: str, error: BaseException) -> Unavailable:
        if isinstance(error, self._messaging.MessagingTimeout):
            return NoAnswer(f"{self._name}: {method}: no answer within {timeout:g} s")
        if isinstance(error, self._messaging.RemoteError):
            return Unavailable(f"{self._name}: {method}: it raised {error.exc_type}")
        first_line = str(error).partition("\n")[0][:_LONGEST]  # a traceback of Neutron may follow
        return Unavailable(f"{self._name}: {method}: {type(error).__name__}: {first_line}")


def _oslo_messaging(place: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # oslo.messaging imports eventlet, which warns; mdmw does not use it
            return importlib.import_module("oslo_messaging")
    except ImportError as error:
        raise ConfigError(
            f"{place}: RPC to Neutron needs oslo.messaging, the extra mdmw[rpc]: {error}"
        ) from None


def _check(place: str, conf: cfg.ConfigOpts, group: str) -> None:
    """Read every option of a group now; oslo.messaging would read them at the first connection."""
    for name in conf[group]:
        try:
            conf[group][name]
        except (cfg.Error, ValueError) as error:
            problem = " ".join(str(error).split())
            raise ConfigError(f"{place}: [{group}]: option {name!r}: {problem}") from None


def _context() -> dict[str, Any]:
    """The request context of an administrator, as Neutron's agents send it."""
    return {
        "is_admin": True,
        "user_id": None,
        "project_id": None,
        "roles": ["admin", "member", "reader"],
        "request_id": f"req-{uuid.uuid4()}",
    }


_TOPIC = "q-plugin"
_VERSION = "1.0"
_PAUSE = 60.0  # seconds


class NeutronRpcResolver(PortResolver):
    """The resolver `neutron-rpc`: spec 2.1 over the call `get_ports`."""

    contract_version = 1
    options: ClassVar[list[cfg.Opt]] = [
        cfg.StrOpt(
            "transport_url",
            secret=True,
            help="RabbitMQ of Neutron, as in neutron.conf: rabbit://USER:PASSWORD@HOST:5672/. Other options "
            "of oslo.messaging, such as [oslo_messaging_rabbit], come from the files of config_file.",
        ),
        cfg.FloatOpt(
            "neutron_timeout",
            default=5.0,
            min=0.1,
            max=30.0,
            help="Seconds for one query to Neutron. A guest behind a router needs two queries, and the proxy "
            "of a guest waits 30 seconds.",
        ),
    ]

    def __init__(self, settings: SimpleNamespace) -> None:
        if not has_transport(settings):
            raise refuse(settings, "transport_url", "is required")
        rpc = NeutronRpc(settings.config, settings.place, settings.transport_url)
        super().__init__(RpcPorts(rpc, settings.neutron_timeout))
        self.measurements = rpc.measurements


def has_transport(settings: SimpleNamespace) -> bool:
    """Whether the option `transport_url` is set."""
    return bool(settings.transport_url)


class RpcPorts:
    """`PortQueries` over RPC, which has no pages and no choice of fields."""

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
        """All ports. When Neutron cannot list them in time: None, and for a minute no further try.

        In this minute the cache asks for single ports, which Neutron may well find.
        """
        key = frozenset(networks)
        if time.monotonic() < self._paused.get(key, 0.0):
            return None
        try:
            return self._on(networks, {})
        except NoAnswer:
            now = time.monotonic()
            paused = {one: until for one, until in self._paused.copy().items() if until > now}
            self._paused = paused | {key: now + _PAUSE}
            return None

    def _on(self, networks: Sequence[str], filters: Mapping[str, Any]) -> list[Port]:
        ports = self._get_ports({**filters, "network_id": list(networks)})
        return [port for port in ports if port.network_id in networks]

    def _get_ports(self, filters: Mapping[str, Any]) -> list[Port]:
        answer = self._rpc.call(_TOPIC, _VERSION, self._timeout, "get_ports", filters=filters)
        if not isinstance(answer, list):
            raise Unavailable(f"Neutron: the answer to get_ports is not a list but {type(answer).__name__}")
        return [port_of(fields) for fields in answer]
