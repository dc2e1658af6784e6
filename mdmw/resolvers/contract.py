"""What a resolver is: the public contract, version 1.

A resolver turns a `Source` into an `Instance`. It is a class named in the entry
point group `mdmw.resolvers` and used by `resolver = NAME` of instance-resolve.
`mdmw.resolvers.conformance` has the tests that every resolver must pass.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

from oslo_config import cfg
from stevedore.driver import DriverManager
from stevedore.exception import NoMatches

from mdmw.errors import ConfigError
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.snapshot import Snapshot

#: Goes up when a resolver written for the old number would no longer work.
VERSION = 1

NAMESPACE = "mdmw.resolvers"


class Resolver(Protocol):
    """A resolver. Made once at load, called from many threads at once.

    It may have more: `cheap = True`, when remembering its answers is not worth while;
    `options_for(given)`, a class method that gives the options when they depend on what is in
    the section (texts by name); `snapshot`, as `Prefetching` says;
    `check()`, which says in a few words that the back end can be asked, or raises `Unavailable`.
    """

    #: The `VERSION` this class was written for.
    contract_version: ClassVar[int]

    #: Options it adds to the section of instance-resolve.
    options: ClassVar[Sequence[cfg.Opt]]

    def __init__(self, settings: SimpleNamespace) -> None:
        """Take one attribute per option, and `place` for messages; raise `ConfigError`.

        Runs before a server forks: open connections on first use, not here.
        """

    def resolve(self, source: Source, *, fresh: bool = False) -> Instance:
        """The one instance behind `source` (spec 2.1); `fresh` skips every cache.

        Raises `NotIdentified` when there is none or more than one (R-6: never
        guess), `Unavailable` when that could not be found out just now, and
        `Contradiction` when the source contradicts itself (R-8).
        """


class Prefetching(Resolver, Protocol):
    """A resolver that can also fetch all that a scope reaches at once; optional.

    The cache then asks its back end once for a network, not once for each guest. With
    `partial = True` it knows of more than is in its snapshots.
    """

    def snapshot(self, scope: Scope) -> Snapshot | None:
        """All ports of `scope`, or None when they are too many; raises as `resolve` does."""


def find(name: str) -> type[Resolver]:
    """The resolver class called `name`; `ConfigError` says what there is instead."""
    try:
        plugin: Any = DriverManager(NAMESPACE, name).driver
    except NoMatches as error:
        raise ConfigError(f"no resolver {name!r} in entry points {NAMESPACE!r}: {error}") from None
    version = getattr(plugin, "contract_version", None)
    if version != VERSION:
        raise ConfigError(f"resolver {name!r} is for contract version {version}, this is {VERSION}")
    resolver: type[Resolver] = plugin
    return resolver
