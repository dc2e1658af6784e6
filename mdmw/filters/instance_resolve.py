"""instance-resolve: which instance is that?

Reads: `mdmw.source`.
Writes: `mdmw.instance`.
Answers: 404 when there is no instance, or more than one (R-6); 503 when that
cannot be found out just now.
Place: after source-identify. The resolver is a plug-in (`mdmw.resolvers`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace

from oslo_config import cfg

from mdmw.boundary.base import App, Filter
from mdmw.errors import ConfigError, PipelineError
from mdmw.options import Settings, load, place_of, refuse
from mdmw.records import INSTANCE, SOURCE, Environ
from mdmw.resolvers.contract import Resolver, find

OPTIONS = [
    cfg.StrOpt(
        "resolver",
        default="inventory",
        help="Entry point of the group mdmw.resolvers; its own options go into this section too.",
    ),
]


class InstanceResolve(Filter):
    """Writes `mdmw.instance`, unless an earlier filter (hmac-verify) knew it already."""

    requires = frozenset({SOURCE})
    provides = frozenset({INSTANCE})

    def __init__(self, app: App, resolver: Resolver) -> None:
        super().__init__(app)
        self._resolver = resolver

    def prepare(self, environ: Environ) -> None:
        if INSTANCE in environ:
            return
        if SOURCE not in environ:
            raise PipelineError("instance-resolve needs source-identify before it")
        environ[INSTANCE] = self._resolver.resolve(environ[SOURCE])


def make_resolver(global_conf: Mapping[str, str], local_conf: Mapping[str, str]) -> Resolver:
    """The resolver that a section names, with its options; raises `ConfigError`."""
    kind, settings = load_section(global_conf, local_conf)
    try:
        return kind(settings)
    except ConfigError as error:
        if str(error).startswith(settings.place):
            raise
        raise ConfigError(f"{settings.place}: {error}") from None


def load_section(
    global_conf: Mapping[str, str], local_conf: Mapping[str, str]
) -> tuple[type[Resolver], SimpleNamespace]:
    """The class that a section names, and the settings for it."""
    name = local_conf.get("resolver") or global_conf.get("resolver") or OPTIONS[0].default
    try:
        kind = find(name)
    except ConfigError as error:
        place = place_of("instance-resolve", global_conf, local_conf)
        raise refuse(Settings(place=place), "resolver", str(error)) from None
    return kind, load("instance-resolve", [*OPTIONS, *kind.options], global_conf, local_conf)


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], InstanceResolve]:
    """Paste entry point; raises `ConfigError`."""
    return partial(InstanceResolve, resolver=make_resolver(global_conf, local_conf))
