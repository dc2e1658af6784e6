"""From an ini file to a WSGI application, or one line that says what is wrong."""

import configparser
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from paste.deploy import loadwsgi

from mdmw.boundary.stage import App
from mdmw.errors import ConfigError
from mdmw.options import PIPELINE, SHARED
from mdmw.wire import one_line
from mdmw.wsgi import process

#: The pipelines of the shipped file that have a module under `mdmw.wsgi`.
NAMES = ("proxy", "agent", "combined", "standalone", "nova")

#: Environment variables: the file, and the pipeline that `mdmw.wsgi.named` loads.
INI_VARIABLE = "MDMW_PASTE_INI"
NAME_VARIABLE = "MDMW_PIPELINE"


@dataclass(frozen=True, slots=True)
class Stage:
    """One section of a pipeline as Paste sees it; nothing is built yet."""

    section: str
    entry_point: str
    module: str  # of the factory
    global_conf: Mapping[str, str] = field(repr=False)  # there may be secrets in them
    local_conf: Mapping[str, str] = field(repr=False)
    create: Callable[[], Any]


def ini_file() -> str:
    """`MDMW_PASTE_INI`, else ./etc/api-paste.ini, /etc/mdmw/api-paste.ini, the packaged copy."""
    named = os.environ.get(INI_VARIABLE)
    if named:
        return named
    for path in (Path("etc/api-paste.ini"), Path("/etc/mdmw/api-paste.ini")):
        if path.is_file():
            return str(path)
    return str(resources.files("mdmw") / "etc" / "api-paste.ini")


def names(path: str) -> list[str]:
    """The pipelines of an ini file, in its order."""
    prefix = "pipeline:"
    return [s.removeprefix(prefix) for s in _sections(path).sections() if s.startswith(prefix)]


def stages(path: str, pipeline: str, global_conf: Mapping[str, str] | None = None) -> list[Stage]:
    """The stages of a pipeline in request order, the application last; raises `ConfigError`.

    `global_conf` is as if it stood in the file's [DEFAULT], and wins over what does.
    """
    sections = _sections(path)
    if not sections.has_option(f"pipeline:{pipeline}", "pipeline"):
        there = ", ".join(names(path)) or "none"
        raise ConfigError(f"{path}: no [pipeline:{pipeline}] with 'pipeline = ...'; there are: {there}")
    order = sections.get(f"pipeline:{pipeline}", "pipeline").split()
    if not order:
        raise ConfigError(
            f"{path}: [pipeline:{pipeline}]: 'pipeline' is empty; filters and an app are needed"
        )
    named = {**(global_conf or {}), PIPELINE: pipeline}
    context = _paste(
        path, lambda: loadwsgi.loadcontext(loadwsgi.APP, _uri(path), name=pipeline, global_conf=named)
    )
    contexts = [*context.filter_contexts, context.app_context]
    shared: dict[Any, Any] = {}
    for stage in contexts:
        stage.global_conf[SHARED] = shared
    return [_stage(name, stage) for name, stage in zip(order, contexts, strict=True)]


def load(pipeline: str, path: str | None = None, global_conf: Mapping[str, str] | None = None) -> App:
    """The application of `pipeline`, built as Paste builds it; raises `ConfigError`, one line.

    A bad order is refused too: a stage says what it `requires` and `provides`,
    as attributes of what its factory returns.
    """
    path = path or ini_file()
    found = stages(path, pipeline, global_conf)
    built = [_paste(path, stage.create) for stage in found]
    _check_order(f"{path}: [pipeline:{pipeline}]", [s.section for s in found], built)
    app: App = built.pop()
    for make_filter in reversed(built):
        app = make_filter(app)
    return app


def load_or_exit(pipeline: str) -> App:
    """For a server that imports a module: a bad file ends it with one line, and status 2.

    gunicorn's workers end with the status at which its master gives up; after
    any other it would start them again and again.
    """
    process.prepare()
    try:
        application = load(pipeline)
    except ConfigError as error:
        print(f"mdmw: {error}", file=sys.stderr)
        arbiter = sys.modules.get("gunicorn.arbiter")
        sys.exit(arbiter.Arbiter.WORKER_BOOT_ERROR if arbiter else 2)
    process.serve(application)
    return application


def _check_order(place: str, sections: list[str], built: list[Any]) -> None:
    there: set[str] = set()
    for section, stage in zip(sections, built, strict=True):
        missing = _declared(stage, "requires") - there
        if missing:
            raise ConfigError(
                f"{place}: {section!r} needs {', '.join(sorted(missing))}, which no filter before it provides"
            )
        there |= _declared(stage, "provides")


def _declared(stage: Any, attribute: str) -> frozenset[str]:
    # A filter is not made before it has its application: look at the class in the partial.
    return frozenset(getattr(getattr(stage, "func", stage), attribute, ()))


def _stage(section: str, context: Any) -> Stage:
    inner = context
    while getattr(inner, "app_context", None) is not None:  # a section with 'use = another'
        inner = inner.app_context
    return Stage(
        section,
        inner.entry_point_name or "",
        getattr(inner.object, "__module__", None) or type(inner.object).__module__,
        context.global_conf,
        context.local_conf,
        context.create,
    )


def _sections(path: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    try:
        with Path(path).open(encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {_message(error)}") from None
    return parser


def _paste(path: str, load: Any) -> Any:
    try:
        return load()
    except (
        LookupError,
        ValueError,
        ImportError,
        TypeError,
        AttributeError,
        configparser.Error,
        OSError,
    ) as error:
        raise ConfigError(f"{path}: {_message(error)}") from None


def _uri(path: str) -> str:
    return f"config:{Path(path).absolute()}"


def _message(error: Exception) -> str:
    text = error.args[0] if isinstance(error, LookupError) and error.args else error
    return one_line(str(text))
