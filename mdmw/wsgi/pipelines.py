"""From an ini file to a WSGI application, or one line that says what is wrong."""

import configparser
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from paste.deploy import loadwsgi

from mdmw.errors import ConfigError
from mdmw.filters.base import App
from mdmw.observe import log_to_stderr

#: The pipelines of the shipped file that have a module under `mdmw.wsgi`.
NAMES = ("proxy", "agent", "combined", "standalone", "nova")

#: Environment variables: the file, and the pipeline that `mdmw.wsgi.named` loads.
INI_VARIABLE = "MDMW_PASTE_INI"
NAME_VARIABLE = "MDMW_PIPELINE"


@dataclass(frozen=True, slots=True)
class Stage:
    """One section of a pipeline as Paste sees it."""

    section: str
    entry_point: str
    factory: Any
    global_conf: Mapping[str, str] = field(repr=False)
    local_conf: Mapping[str, str] = field(repr=False)

    @property
    def requires(self) -> frozenset[str]:
        """Environ keys that an earlier stage must leave."""
        return getattr(self.factory, "requires", frozenset())

    @property
    def provides(self) -> frozenset[str]:
        """Environ keys that it leaves."""
        return getattr(self.factory, "provides", frozenset())


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


def stages(path: str, pipeline: str) -> list[Stage]:
    """The stages of a pipeline in request order; raises `ConfigError` for a bad order."""
    sections = _sections(path)
    if not sections.has_option(f"pipeline:{pipeline}", "pipeline"):
        there = ", ".join(names(path)) or "none"
        raise ConfigError(
            f"{path}: no [pipeline:{pipeline}] with a line 'pipeline = ...'; there are: {there}"
        )
    order = sections.get(f"pipeline:{pipeline}", "pipeline").split()
    context = _paste(path, lambda: loadwsgi.loadcontext(loadwsgi.APP, _uri(path), name=pipeline))
    contexts = [*context.filter_contexts, context.app_context]
    found = [_stage(name, stage) for name, stage in zip(order, contexts, strict=True)]
    _check_order(path, pipeline, found)
    return found


def load(pipeline: str, path: str | None = None) -> App:
    """The application of `pipeline`; raises `ConfigError`, one line."""
    path = path or ini_file()
    stages(path, pipeline)
    app: App = _paste(path, lambda: loadwsgi.loadapp(_uri(path), name=pipeline))
    return app


def load_or_exit(pipeline: str) -> App:
    """For a server that imports a module: a bad file ends it with one line, and status 2.

    gunicorn's workers end with the status at which its master gives up; after
    any other it would start them again and again.
    """
    log_to_stderr()
    try:
        return load(pipeline)
    except ConfigError as error:
        print(f"mdmw: {error}", file=sys.stderr)
        arbiter = sys.modules.get("gunicorn.arbiter")
        sys.exit(arbiter.Arbiter.WORKER_BOOT_ERROR if arbiter else 2)


def _check_order(path: str, pipeline: str, found: list[Stage]) -> None:
    there: set[str] = set()
    for stage in found:
        missing = stage.requires - there
        if missing:
            raise ConfigError(
                f"{path}: [pipeline:{pipeline}]: {stage.section!r} needs {', '.join(sorted(missing))}, "
                "which no filter before it provides"
            )
        there |= stage.provides


def _stage(section: str, context: Any) -> Stage:
    while getattr(context, "app_context", None) is not None:  # a section with 'use = another'
        context = context.app_context
    return Stage(
        section, context.entry_point_name or "", context.object, context.global_conf, context.local_conf
    )


def _sections(path: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    try:
        with Path(path).open(encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None
    return parser


def _paste(path: str, load: Any) -> Any:
    try:
        return load()
    except (LookupError, ValueError, ImportError, TypeError, configparser.Error, OSError) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None


def _uri(path: str) -> str:
    return f"config:{Path(path).absolute()}"


def _one_line(error: Exception) -> str:
    text = error.args[0] if isinstance(error, LookupError) and error.args else error
    return " ".join(str(text).split())
