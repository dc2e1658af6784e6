"""The resolver for Neutron's own configuration files: REST or RPC, whichever they allow."""

import logging
from types import SimpleNamespace
from typing import ClassVar

from oslo_config import cfg

from mdmw.errors import ConfigError
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.credentials import has_credentials
from mdmw.resolvers.neutron import NeutronResolver
from mdmw.resolvers.neutron_rpc import NeutronRpcResolver, has_transport
from mdmw.resolvers.ports import PortResolver
from mdmw.resolvers.snapshot import Snapshot

LOG = logging.getLogger(__name__)


class AutoResolver:
    """Takes REST when there are credentials, which asks for less than RPC, else RPC."""

    contract_version = 1
    options: ClassVar[list[cfg.Opt]] = list(
        {opt.dest: opt for opt in (*NeutronRpcResolver.options, *NeutronResolver.options)}.values()
    )

    def __init__(self, settings: SimpleNamespace) -> None:
        self._resolver = _resolver(settings)

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:
        """As the resolver that was taken."""
        return self._resolver.resolve(source, fresh=fresh)

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """As the resolver that was taken."""
        return self._resolver.snapshot(scope)

    def check(self) -> str:
        """As the resolver that was taken."""
        return self._resolver.check()


def _resolver(settings: SimpleNamespace) -> PortResolver:
    if has_credentials(settings):
        LOG.info("%s: resolver = auto: neutron (REST), since there are credentials", settings.place)
        return NeutronResolver(settings)
    if has_transport(settings):
        LOG.info("%s: resolver = auto: neutron-rpc, since there is a transport_url", settings.place)
        return NeutronRpcResolver(settings)
    raise ConfigError(
        f"{settings.place}: resolver = auto finds neither credentials nor a transport_url: give, in a file "
        "of config_file, a [neutron] group (auth_type, auth_url, username, password, ...) for REST, or "
        "transport_url in [DEFAULT] for RPC"
    )
