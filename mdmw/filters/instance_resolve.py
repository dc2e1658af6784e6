"""instance-resolve: which instance is that?

Reads: `mdmw.source`.
Writes: `mdmw.instance`.
Answers: 404 when there is no instance, or more than one (R-6); 503 when that
cannot be found out just now. A 404 of a later stage for an identity that was
only remembered makes it ask again (R-11, R-12).
Place: after source-identify. The resolver is a plug-in (`mdmw.resolvers`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace

from oslo_config import cfg

from mdmw.boundary.stage import App, Filter
from mdmw.errors import ConfigError, PipelineError
from mdmw.filters.second_look import REMEMBERED, SecondLook
from mdmw.observe.journal import journal_of
from mdmw.observe.series import Measurement
from mdmw.options import Settings, load, place_of, refuse
from mdmw.records import INSTANCE, SOURCE, Environ
from mdmw.resolvers import cache_options
from mdmw.resolvers.caching import Caching
from mdmw.resolvers.contract import Resolver, find
from mdmw.resolvers.questions import Questions

OPTIONS = [
    cfg.StrOpt(
        "resolver",
        default="inventory",
        help="Entry point of the group mdmw.resolvers; its own options go into this section too.",
    ),
    *cache_options.OPTIONS,
]
_SAFE_METHODS = ("GET", "HEAD")


class InstanceResolve(Filter):
    """Writes `mdmw.instance`, unless an earlier filter (hmac-verify) knew it already."""

    stage = "resolve"
    requires = frozenset({SOURCE})
    provides = frozenset({INSTANCE})

    def __init__(self, app: App, resolver: Resolver) -> None:
        super().__init__(app)
        self._resolver = resolver
        self._cache = resolver if isinstance(resolver, Caching) else None
        questions = Questions(resolver)
        self.checks = {"resolver": questions.check}
        self.questions = {
            "resolve": questions.resolve,
            "cache": questions.cache,
            "purge": questions.purge,
        }
        self.measurements: Callable[[], Iterable[Measurement]] = getattr(resolver, "measurements", tuple)

    def prepare(self, environ: Environ) -> None:
        if INSTANCE in environ:
            return
        if SOURCE not in environ:
            raise PipelineError("instance-resolve needs source-identify before it")
        if self._cache is None:
            environ[INSTANCE] = self._resolver.resolve(environ[SOURCE])
        else:
            self._recall(self._cache, environ)

    def _recall(self, cache: Caching, environ: Environ) -> None:
        began = cache.clock()
        is_safe = environ.get("REQUEST_METHOD") in _SAFE_METHODS
        answer = cache.find(environ[SOURCE], journal_of(environ), stale=is_safe)
        environ[INSTANCE] = answer.identified()
        if answer.as_of < began:
            environ[REMEMBERED] = answer


def make_resolver(global_conf: Mapping[str, str], local_conf: Mapping[str, str]) -> Resolver:
    """The resolver that a section names, with its options, behind a cache; raises `ConfigError`."""
    kind, settings = load_section(global_conf, local_conf)
    try:
        return cache_options.cached(kind(settings), settings)
    except ConfigError as error:
        if str(error).startswith(settings.place):
            raise
        raise ConfigError(f"{settings.place}: {error}") from None


def load_section(
    global_conf: Mapping[str, str], local_conf: Mapping[str, str]
) -> tuple[type[Resolver], SimpleNamespace]:
    """The class that a section names, and the settings for it."""
    kind, options = section_options(global_conf, local_conf)
    return kind, load("instance-resolve", options, global_conf, local_conf)


def section_options(
    global_conf: Mapping[str, str], local_conf: Mapping[str, str]
) -> tuple[type[Resolver], Sequence[cfg.Opt]]:
    """The class that a section names, and all options of that section."""
    given = {**global_conf, **local_conf}
    try:
        kind = find(given.get("resolver") or OPTIONS[0].default)
        options_for = getattr(kind, "options_for", None)
        options = options_for(given) if options_for else kind.options
    except ConfigError as error:
        settings = Settings(place=place_of("instance-resolve", global_conf, local_conf))
        raise refuse(settings, "resolver", str(error)) from None
    return kind, [*OPTIONS, *options]


def steps_behind(global_conf: Mapping[str, str], local_conf: Mapping[str, str]) -> Sequence[str]:
    """The steps that this filter puts behind itself: the second look, where answers are remembered."""
    kind, settings = load_section(global_conf, local_conf)
    return ("second-look",) if cache_options.remembers(kind, settings) else ()


class Resolving:
    """Makes the step that finds the instance, and behind it the second look where answers are remembered."""

    requires = InstanceResolve.requires
    provides = InstanceResolve.provides

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def __call__(self, app: App) -> InstanceResolve:
        resolver = self._resolver
        if isinstance(resolver, Caching):
            app = SecondLook(app, resolver)
        return InstanceResolve(app, resolver)


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Resolving:
    """Paste entry point; raises `ConfigError`."""
    return Resolving(make_resolver(global_conf, local_conf))
