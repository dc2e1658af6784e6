"""Resolvers that are made of other resolvers: `chain` and `auto`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import ClassVar

from oslo_config import cfg

from mdmw.errors import ConfigError, NotIdentified, Unavailable
from mdmw.observe.series import Measurement
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.contract import Resolver, Snapshot, find
from mdmw.resolvers.keystone import has_credentials
from mdmw.resolvers.neutron import NeutronResolver
from mdmw.resolvers.neutron_rpc import NeutronRpcResolver, has_transport

LOG = logging.getLogger(__name__)


class ChainResolver:
    """Asks several resolvers in turn, until one knows the source.

    A resolver with a temporary fault is skipped. When no other resolver knows the source, the answer is
    `Unavailable`, since the skipped one may know it. Snapshots come from the first resolver only.
    """

    contract_version: ClassVar[int] = 1
    options: ClassVar[Sequence[cfg.Opt]] = [
        cfg.ListOpt(
            "chain",
            help="Names of the resolvers that are asked in turn, for example: neutron, inventory. The "
            "options of these resolvers go into the same section.",
        ),
    ]

    #: The snapshots have the ports of the first resolver only.
    partial = True

    def __init__(self, settings: SimpleNamespace) -> None:
        self._members: list[Resolver] = [find(name)(settings) for name in settings.chain]

    @classmethod
    def options_for(cls, given: Mapping[str, str]) -> Sequence[cfg.Opt]:
        """The options of the chain and of its resolvers. `given` is the section; raises `ConfigError`."""
        names = cls.options[0].type(given.get("chain", ""))
        if not names or "chain" in names:
            raise ConfigError(
                "resolver = chain needs the option 'chain': the names of other resolvers than chain"
            )
        kinds: list[type[Resolver]] = [cls, *map(find, names)]
        return list({opt.dest: opt for kind in reversed(kinds) for opt in kind.options}.values())

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:
        """The answer of the first resolver that knows the source; raises `Contradiction` at once."""
        failure: Unavailable | None = None
        for member in self._members:
            try:
                return member.resolve(source, fresh=fresh)
            except NotIdentified:
                continue
            except Unavailable as error:
                LOG.warning("%s: skipped in the chain: %s", type(member).__name__, error)
                failure = failure or error
        raise failure or NotIdentified(f"{source}: no resolver of the chain knows this source")

    def measurements(self) -> Iterator[Measurement]:
        """What the members measure."""
        for member in self._members:
            yield from getattr(member, "measurements", tuple)()

    def check(self) -> str:
        """Says that each resolver can be asked; raises `Unavailable`."""
        checks = [check for member in self._members if (check := getattr(member, "check", None))]
        return "; ".join([check() for check in checks]) or "there is nothing to check"

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """The snapshot of the first resolver; None without one, so that the cache asks for each source."""
        snapshot = getattr(self._members[0], "snapshot", None)
        if snapshot is None:
            return None
        try:
            found: Snapshot | None = snapshot(scope)
        except Unavailable as error:
            LOG.warning("%s: the chain has no snapshot: %s", type(self._members[0]).__name__, error)
            return None
        return found


class AutoResolver:
    """Uses Neutron's REST API when the files have credentials for it, or else RPC."""

    contract_version = 1
    options: ClassVar[list[cfg.Opt]] = list(
        {opt.dest: opt for opt in (*NeutronRpcResolver.options, *NeutronResolver.options)}.values()
    )

    def __init__(self, settings: SimpleNamespace) -> None:
        self._resolver = _resolver(settings)
        self.measurements = self._resolver.measurements

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:
        """See `Resolver`."""
        return self._resolver.resolve(source, fresh=fresh)

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """See `Resolver`."""
        return self._resolver.snapshot(scope)

    def check(self) -> str:
        """See `Resolver`."""
        return self._resolver.check()


def _resolver(settings: SimpleNamespace) -> NeutronResolver | NeutronRpcResolver:
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
