"""Several resolvers, asked in turn: the first answer wins."""

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
    """Absent in one, a source is looked for in the next; it is absent when all say so.

    A resolver that cannot be asked is passed over; if then nobody knows the source, that it may
    be known there is what counts (`Unavailable`). Only the first one is prefetched from.
    """

    contract_version: ClassVar[int] = 1
    options: ClassVar[Sequence[cfg.Opt]] = [
        cfg.ListOpt(
            "chain",
            help="Resolvers to ask in turn, for example: neutron, inventory. Their options go into the "
            "same section.",
        ),
    ]

    #: Its snapshots hold what the first resolver knows.
    partial = True

    def __init__(self, settings: SimpleNamespace) -> None:
        self._members: list[Resolver] = [find(name)(settings) for name in settings.chain]

    @classmethod
    def options_for(cls, given: Mapping[str, str]) -> Sequence[cfg.Opt]:
        """The options of a section with these texts: those of the members join it; raises `ConfigError`."""
        names = cls.options[0].type(given.get("chain", ""))
        if not names or "chain" in names:
            raise ConfigError("chain needs 'chain = ...' beside it: resolvers, and chain is none of them")
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
                LOG.warning("%s: passed over in the chain: %s", type(member).__name__, error)
                failure = failure or error
        raise failure or NotIdentified(f"{source}: no resolver of the chain knows it")

    def measurements(self) -> Iterator[Measurement]:
        """What the members measure."""
        for member in self._members:
            yield from getattr(member, "measurements", tuple)()

    def check(self) -> str:
        """Whether each of them can be asked; raises `Unavailable`."""
        checks = [check for member in self._members if (check := getattr(member, "check", None))]
        return "; ".join([check() for check in checks]) or "there is nothing to check"

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """The snapshot of the first resolver; None when it has none now, so that each source is asked for."""
        snapshot = getattr(self._members[0], "snapshot", None)
        if snapshot is None:
            return None
        try:
            found: Snapshot | None = snapshot(scope)
        except Unavailable as error:
            LOG.warning("%s: no snapshot for the chain: %s", type(self._members[0]).__name__, error)
            return None
        return found


class AutoResolver:
    """Takes REST when there are credentials, which asks for less than RPC, else RPC."""

    contract_version = 1
    options: ClassVar[list[cfg.Opt]] = list(
        {opt.dest: opt for opt in (*NeutronRpcResolver.options, *NeutronResolver.options)}.values()
    )

    def __init__(self, settings: SimpleNamespace) -> None:
        self._resolver = _resolver(settings)
        self.measurements = self._resolver.measurements

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:
        """As the resolver that was taken."""
        return self._resolver.resolve(source, fresh=fresh)

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """As the resolver that was taken."""
        return self._resolver.snapshot(scope)

    def check(self) -> str:
        """As the resolver that was taken."""
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
