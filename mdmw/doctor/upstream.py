"""What is behind the agent: Keystone, Neutron or an inventory, and Nova, by the options of a pipeline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NoReturn

from mdmw import options
from mdmw.errors import ConfigError
from mdmw.filters import hmac_sign, instance_resolve, nova_forward
from mdmw.records import INSTANCE, PROOFS, SOURCE, Environ, Instance, Proof, Source
from mdmw.resolvers import credentials
from mdmw.resolvers.auto import AutoResolver
from mdmw.resolvers.contract import Resolver, find
from mdmw.resolvers.keystone import Keystone
from mdmw.resolvers.neutron import NeutronResolver, RestQueries
from mdmw.resolvers.token_store import Alone
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import Limits
from mdmw.wsgi.pipelines import Stage

#: For everything that is asked: seconds.
WITHIN = 1.0
LIMITS = Limits(
    connect_timeout=WITHIN,
    read_timeout=WITHIN,
    total_timeout=WITHIN,
    queue_timeout=WITHIN,
    idle_timeout=-1.0,  # no connection is kept
)
_MOST_PORTS = 10000


@dataclass(frozen=True, slots=True)
class Neutron:
    """Neutron by REST; `auth_url` is Keystone's address, None without Keystone."""

    keystone: Keystone
    queries: RestQueries
    auth_url: str | None


@dataclass(frozen=True, slots=True)
class Nova:
    """Where Nova is, how to speak TLS with it, and what signs."""

    addresses: tuple[Address, ...]
    tls: Any
    client_certificate: str
    sign: Stage | None

    def proofs(self, source: Source, instance: Instance) -> tuple[Proof, ...]:
        """As hmac-sign makes them; raises `ConfigError`."""
        if self.sign is None:
            return ()
        made = hmac_sign.filter_factory(self.sign.global_conf, **self.sign.local_conf)(_nobody)
        environ: Environ = {SOURCE: source, INSTANCE: instance}
        made.prepare(environ)
        proofs: tuple[Proof, ...] = environ[PROOFS]
        return proofs


def neutron(stages: Sequence[Stage]) -> Neutron | None:
    """None when a pipeline does not ask Neutron by REST; raises `ConfigError`."""
    stage = _stage(stages, "instance-resolve")
    if stage is None:
        return None
    kind, settings = instance_resolve.load_section(stage.global_conf, stage.local_conf)
    kinds = [kind, *map(find, getattr(settings, "chain", None) or ())]
    if not any(_asks_by_rest(one, settings) for one in kinds):
        return None
    found = credentials.load(settings)
    auth_url = getattr(found.plugin, "auth_url", None)
    keystone = Keystone(replace(found, timeout=None), LIMITS, Alone())
    return Neutron(keystone, RestQueries(keystone.get, _MOST_PORTS), auth_url)


def resolver(stages: Sequence[Stage]) -> Resolver | None:
    """Another resolver that can be asked at once, as an inventory; raises `ConfigError`."""
    stage = _stage(stages, "instance-resolve")
    if stage is None:
        return None
    kind, settings = instance_resolve.load_section(stage.global_conf, stage.local_conf)
    return kind(settings) if getattr(kind, "cheap", False) else None


def nova(stages: Sequence[Stage]) -> Nova | None:
    """None when a pipeline does not ask Nova; raises `ConfigError`."""
    stage = _stage(stages, "nova-forward")
    if stage is None:
        return None
    settings = options.load("nova-forward", nova_forward.OPTIONS, stage.global_conf, stage.local_conf)
    return Nova(
        tuple(nova_forward.addresses_of(settings)),
        nova_forward.tls_of(settings),
        settings.nova_client_cert,
        _stage(stages, "hmac-sign"),
    )


def _stage(stages: Iterable[Stage], entry_point: str) -> Stage | None:
    return next((stage for stage in stages if stage.entry_point == entry_point), None)


def _asks_by_rest(kind: type[Resolver], settings: SimpleNamespace) -> bool:
    if issubclass(kind, NeutronResolver):
        return True
    return issubclass(kind, AutoResolver) and credentials.has_credentials(settings)


def _nobody(_environ: Environ, _start_response: Any) -> NoReturn:
    """The application behind a filter that is only asked to prepare."""
    raise ConfigError("the doctor answers no guest")
