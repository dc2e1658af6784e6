"""The options of a section of the paste file, parsed when the pipeline is loaded.

A value comes from the section, or else from `[DEFAULT]` of the paste file, or else from the files that
`config_file` names, or else it is the default. Two sections of one filter never see each other's values.
"""

import configparser
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg

from mdmw.errors import ConfigError
from mdmw.wire import one_line

#: Options of every section.
CONFIG_FILE = cfg.ListOpt(
    "config_file",
    default=[],
    help="oslo.config files from which mdmw reads options, for example Neutron's metadata_agent.ini. "
    "A value in the section of the paste file has priority over these files.",
)
CONFIG_DIR = cfg.ListOpt(
    "config_dir",
    default=[],
    help="Directories whose *.conf files mdmw reads after the files of config_file.",
)
#: What the loader of pipelines adds to the global dict: the name of the pipeline.
PIPELINE = "mdmw_pipeline"
#: What the loader of pipelines adds to the global dict: a dict in which stages keep the objects that
#: they share. Each load of a pipeline has its own.
SHARED = "mdmw_shared"

_LOCATION = re.compile(r"LocationInfo\(.*?detail='(.*?)'\)")  # how oslo.config names a file
_QUOTED_LINE = re.compile(r": (['\"]).*\1$", re.DOTALL)  # how oslo.config ends a parse error
_PASTE_KEYS = frozenset({"use", "paste.filter_factory", "paste.app_factory", "paste.composite_factory"})


def load(
    name: str,
    options: Sequence[cfg.Opt],
    global_conf: Mapping[str, str],
    local_conf: Mapping[str, str],
) -> SimpleNamespace:
    """Parse one section into a namespace with one attribute per option.

    `name` is the entry point, for example `hmac-sign`. Raises `ConfigError` with one line: file, section,
    option, value, what is allowed.
    """
    place = place_of(name, global_conf, local_conf)
    known = {spelling: opt for opt in (CONFIG_FILE, CONFIG_DIR, *options) for spelling in _spellings(opt)}
    for option in local_conf:
        if option not in known:
            allowed = ", ".join(sorted({opt.dest for opt in known.values()}))
            raise ConfigError(f"{place}: unknown option {option!r}; known are: {allowed}")
    given = {o: v for o, v in global_conf.items() if o in known} | dict(local_conf)
    values = {known[o].dest: _parse(place, known[o], o, text) for o, text in given.items()}
    files = ConfigFiles(values.pop(CONFIG_FILE.dest, []), values.pop(CONFIG_DIR.dest, []))

    # oslo.config would replace a $name in a value, so it never sees the values of the section.
    conf = files.parse(place, [opt for opt in options if opt.dest not in values])
    rest = {opt.dest: _from_files(place, opt, conf, files) for opt in options if opt.dest not in values}
    return Settings(place=place, config=files, shared=global_conf.get(SHARED, {}), **values, **rest)


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """The oslo.config files of a section. `parse` reads other groups of these files than `[DEFAULT]`."""

    files: Sequence[str] = ()
    directories: Sequence[str] = ()

    def one_by_one(self) -> "list[ConfigFiles]":
        """Each file by itself, the file with the highest priority first."""
        inside = [str(path) for name in self.directories for path in sorted(Path(name).glob("*.conf"))]
        return [ConfigFiles([path]) for path in reversed([*self.files, *inside])]

    def parse(self, place: str, options: Sequence[cfg.Opt] = (), group: str | None = None) -> cfg.ConfigOpts:
        """A new `ConfigOpts` over these files, on which more options may be registered.

        Raises `ConfigError`, one line that begins with `place`.
        """
        conf = cfg.ConfigOpts()
        conf.register_opts(options, group=group)
        try:
            conf(
                args=[],
                project="mdmw",
                default_config_files=list(self.files),
                default_config_dirs=list(self.directories),
                use_env=False,
            )
        except cfg.RequiredOptError as error:
            raise ConfigError(f"{place}: option {error.opt_name!r} is required") from None
        except cfg.ConfigFileParseError as error:
            line = _QUOTED_LINE.sub("", str(error))  # it may hold a secret
            raise ConfigError(f"{place}: {_without_location(line)}") from None
        except (cfg.Error, ValueError, OSError) as error:
            where = ", ".join([*self.files, *self.directories])
            raise ConfigError(f"{place}: {where}: {_without_location(error)}") from None
        return conf


class Settings(SimpleNamespace):
    """One attribute for each option, `place` for messages, `config` (a `ConfigFiles`) and `shared`.

    `shared` is a dict for objects that the stages of one pipeline share. `repr` shows no values, since
    some are secret.
    """

    def __repr__(self) -> str:
        return f"<settings of {self.place}>"


def refuse(settings: SimpleNamespace, option: str, problem: str) -> ConfigError:
    """The error for a value that cannot be used. `problem` says what is allowed."""
    return ConfigError(f"{settings.place}: option {option!r}: {problem}")


def shown(opt: cfg.Opt, value: object) -> str:
    """The value of an option as text, stars for a secret."""
    if opt.secret and value:
        return "****"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _parse(place: str, opt: cfg.Opt, option: str, text: str) -> Any:
    try:
        if opt.multi:
            return [opt.type(line.strip()) for line in text.split("\n") if line.strip()]
        return _finite(opt.type(text))
    except (ValueError, TypeError) as error:
        shown = "****" if opt.secret else repr(text)
        why = "not allowed" if opt.secret else _without_location(error)
        raise ConfigError(f"{place}: option {option!r}: value {shown}: {why}") from None


def _from_files(place: str, opt: cfg.Opt, conf: cfg.ConfigOpts, files: ConfigFiles) -> Any:
    try:
        value = _finite(conf[opt.dest])
        if not opt.multi or len(value) < 2:
            return value
        # oslo.config adds up what several files say; of other options the last file's value counts.
        return next(filter(None, (one.parse(place, [opt])[opt.dest] for one in files.one_by_one())))
    except (cfg.Error, ValueError) as error:
        why = "the value is not allowed" if opt.secret else _without_location(error)
        raise ConfigError(f"{place}: option {opt.dest!r}: {why}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return value


def _spellings(opt: cfg.Opt) -> list[str]:
    return [opt.dest, *(old.name.replace("-", "_") for old in opt.deprecated_opts if old.name)]


def place_of(name: str, global_conf: Mapping[str, str], local_conf: Mapping[str, str]) -> str:
    """The file and section from which the factory `name` was called, for messages."""
    path = global_conf.get("__file__")
    if not path:
        return name
    section = _section(path, name, local_conf)
    return f"{path}: [{section}]" if section else f"{path}: {name}"


def _section(path: str, name: str, local_conf: Mapping[str, str]) -> str | None:
    """The section from which Paste made this call: it uses `name` and has these options.

    Raises `ConfigError` for an option that `[DEFAULT]` has too, since Paste silently drops it.
    """
    parser = configparser.RawConfigParser(default_section="\0", strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return None
    defaults = parser["DEFAULT"] if parser.has_section("DEFAULT") else {}
    for section in parser.sections():
        items = dict(parser.items(section))
        if not items.get("use", "").endswith(f"#{name}"):
            continue
        plain = {key for key in items if key not in _PASTE_KEYS and " " not in key}
        if plain - set(defaults) == set(local_conf) and _may_be(items, local_conf):
            if dropped := plain & set(defaults):
                raise ConfigError(
                    f"{path}: [{section}]: option {min(dropped)!r} is in [DEFAULT] too, and Paste then "
                    f"ignores the one here; write 'set {min(dropped)} = ...' or take it out of [DEFAULT]"
                )
            return section
    return None


def _may_be(items: Mapping[str, str], local_conf: Mapping[str, str]) -> bool:
    """Whether the section has these values. Values with a `%` are interpolated, and not compared."""
    return all(items[option] == value or "%" in items[option] for option, value in local_conf.items())


def hyphenated(word: str) -> str:
    """A word of a command line, with `--some_option` written as `--some-option`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _without_location(error: object) -> str:
    return _LOCATION.sub(r"\1", one_line(str(error)))
