"""Calls to Neutron's RPC server, none of which outlasts its time.

oslo.messaging tries for ever to reach RabbitMQ, and a guest cannot wait for that. So each call is
made on a thread of its own, and given up on when its time is over.
"""

import contextlib
import importlib
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from oslo_config import cfg

from mdmw.errors import ConfigError, Overloaded, Unavailable
from mdmw.options import ConfigFiles
from mdmw.upstream.slots import Slots

#: Where messages to Neutron go, unless the files say otherwise.
EXCHANGE = "neutron"

_RABBIT = "oslo_messaging_rabbit"
# oslo.messaging asks for these at each message, but registers them on the global cfg.CONF only.
_SWITCHES = (("oslo_messaging_metrics", "metrics_enabled"), ("oslo_messaging_tracing", "tracing_enabled"))
_UNDER_WAY = 10  # calls; each that is sent at the same time as others costs a connection
_WAITING = 1000
_RECONNECT_INTERVAL = 2  # at most; the 30 s of oslo.messaging are 30 s of 503 after RabbitMQ is back
_NOWHERE = "mdmw"  # a topic that nobody listens to
_LONGEST = 200


class NoAnswer(Unavailable):
    """Nothing came within the time of a call."""


class NeutronRpc:
    """One per process; the first call connects.

    `transport_url` and the files are Neutron's own, `[oslo_messaging_rabbit]` included. Raises
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
            # What they say may hold the password.
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
        self._was_reached = False
        hosts = ",".join(f"{host.hostname}:{host.port or 5672}" for host in url.hosts)
        self._name = f"Neutron over {url.transport}://{hosts}"

    def call(self, topic: str, version: str, timeout: float, method: str, **arguments: Any) -> Any:
        """What Neutron answers within `timeout` seconds; raises `Unavailable`."""
        client = self._client(topic, version, timeout)

        def send() -> Any:
            self._reach()
            return client.call(_context(), method, **arguments)

        return self._within(timeout, method, send)

    def cast(self, topic: str, version: str, timeout: float, method: str, **arguments: Any) -> None:
        """Send without waiting for an answer; raises `Unavailable` when RabbitMQ did not take it."""
        client = self._client(topic, version, timeout)
        self._within(timeout, method, partial(client.cast, _context(), method, **arguments))

    def close(self, timeout: float) -> None:
        """Close the connections, as far as that can be done in `timeout` seconds."""
        with contextlib.suppress(Unavailable):
            self._within(timeout, "close", self._transport.cleanup)

    def _client(self, topic: str, version: str, timeout: float | None = None) -> Any:
        target = self._messaging.Target(exchange=self._exchange, topic=topic, version=version)
        # One retry is for a connection that RabbitMQ closed while it was idle.
        return self._messaging.get_rpc_client(self._transport, target, timeout=timeout, retry=1)

    def _reach(self) -> None:
        """Before the first call say something to nobody.

        Unlike a call, which must have its queue for answers first, this fails when RabbitMQ is not
        there or refuses us, and says why.
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
        except BaseException as error:  # Neutron's exceptions arrive as such
            answer.set_exception(error)
        finally:
            self._slots.release()

    def _unavailable(self, timeout: float, method: str, error: BaseException) -> Unavailable:
        if isinstance(error, self._messaging.MessagingTimeout):
            return NoAnswer(f"{self._name}: {method}: no answer within {timeout:g} s")
        if isinstance(error, self._messaging.RemoteError):
            return Unavailable(f"{self._name}: {method}: it raised {error.exc_type}")
        first_line = str(error).partition("\n")[0][:_LONGEST]  # a traceback of Neutron's may follow
        return Unavailable(f"{self._name}: {method}: {type(error).__name__}: {first_line}")


def _oslo_messaging(place: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports eventlet, which warns; nothing here runs on it
            return importlib.import_module("oslo_messaging")
    except ImportError as error:
        raise ConfigError(
            f"{place}: RPC to Neutron needs oslo.messaging, the extra mdmw[rpc]: {error}"
        ) from None


def _check(place: str, conf: cfg.ConfigOpts, group: str) -> None:
    """Read every option of a group now, since oslo.messaging reads them at the first connection."""
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
