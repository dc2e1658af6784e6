"""agent-forward: carry it to the agent, with the source in headers.

Reads: `mdmw.source`, the raw request target, the body.
Writes: nothing.
Answers: what the agent says, unchanged; 503 when it is away, 504 when slow.
Place: last in the proxy. As a filter it takes identified requests only.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace

from oslo_config import cfg

from mdmw import wire
from mdmw.boundary.body import read_body
from mdmw.boundary.relay import Relayed
from mdmw.boundary.stage import App, Either, Terminal
from mdmw.errors import PipelineError
from mdmw.observe.journal import journal_of, next_hop_headers, take_answer_id
from mdmw.observe.series import Measurement
from mdmw.options import load, refuse
from mdmw.records import SOURCE, Environ, Source
from mdmw.signing import RELAY_SECRET, Signer, relay_signer, secret_options
from mdmw.upstream.address import Address, parse_address
from mdmw.upstream.exchange import Upstream
from mdmw.upstream.settings import limit_options, limits_of

_NO_DEFAULT_PORT = 0

OPTIONS = [
    cfg.StrOpt(
        "metadata_proxy_socket",
        default="/var/lib/neutron/metadata_proxy",
        help="Unix socket of the agent on this host.",
    ),
    cfg.ListOpt(
        "agent_address",
        default=[],
        help="Instead of the socket: agents as host:port, [ipv6]:port or unix:/path. Of several, the next "
        "one is tried when one cannot be connected to. TCP needs relay_shared_secret.",
    ),
    *secret_options(RELAY_SECRET, "The key that the agent's source-identify (mode relay) verifies with."),
    cfg.BoolOpt("legacy_headers", default=False, help="Send the X-Quantum-* names too."),
    *limit_options("agent", read_timeout=29.0, total_timeout=30.0),
    cfg.IntOpt("max_body", default=65536, min=0, help="Longest request body, in bytes."),
]


class AgentForward(Terminal):
    """Sends the request on; with a `signer` it proves to a TCP agent that it is a listed proxy."""

    stage = "forward"
    requires = frozenset({SOURCE})

    def __init__(
        self, upstream: Upstream, signer: Signer | None, legacy_headers: bool, max_body: int
    ) -> None:
        self._upstream = upstream
        self._signer = signer
        self._legacy_headers = legacy_headers
        self._max_body = max_body
        self.checks = {"upstream": upstream.check}

    def measurements(self) -> Iterator[Measurement]:
        """The slots of the upstream, and the age of the relay secret."""
        yield from self._upstream.measurements()
        yield from self._signer.measurements() if self._signer else ()

    def respond(self, environ: Environ) -> App:
        if SOURCE not in environ:
            raise PipelineError("agent-forward needs source-identify before it")
        method = environ["REQUEST_METHOD"]
        target = wire.request_target(environ)
        body = read_body(environ, self._max_body)
        headers = [*wire.to_agent(environ), *wire.source_headers(environ[SOURCE], self._legacy_headers)]
        if self._signer:
            headers.append(_signature(self._signer, method, target, environ[SOURCE]))
        headers.extend(next_hop_headers(environ))
        answer = self._upstream.exchange(method, target, headers, body, journal=journal_of(environ))
        take_answer_id(answer.headers, environ)
        return Relayed(answer, wire.from_agent(answer.headers))


def _signature(signer: Signer, method: str, target: str, source: Source) -> tuple[str, str]:
    timestamp = str(int(time.time()))
    message = wire.relay_message(timestamp, method, target, wire.source_headers(source))
    return wire.RELAY_SIGNATURE, f"{timestamp}:{signer.sign(message)}"


# --- strings to settings ----------------------------------------------------------------


def app_factory(global_conf: Mapping[str, str], **local_conf: str) -> AgentForward:
    """Paste entry point of the terminal form; raises `ConfigError`."""
    settings = load("agent-forward", OPTIONS, global_conf, local_conf)
    addresses = addresses_of(settings)
    signer = relay_signer(settings)
    if signer is None and any(address.scheme != "unix" for address in addresses):
        raise refuse(settings, RELAY_SECRET, "a relay over TCP needs a shared key")
    upstream = Upstream(addresses, limits_of(settings, "agent"), name="agent")
    return AgentForward(upstream, signer, settings.legacy_headers, settings.max_body)


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Either]:
    """Paste entry point of the filter form; raises `ConfigError`."""
    forward = app_factory(global_conf, **local_conf)
    return lambda app: Either(SOURCE, forward, app)


def addresses_of(settings: SimpleNamespace) -> list[Address]:
    """Those of the agent, in order of preference; raises `ConfigError`."""
    option = "agent_address" if settings.agent_address else "metadata_proxy_socket"
    texts = settings.agent_address or [f"unix:{settings.metadata_proxy_socket}"]
    try:
        return [parse_address(text, "http", _NO_DEFAULT_PORT) for text in texts]
    except ValueError as error:
        raise refuse(settings, option, str(error)) from None
