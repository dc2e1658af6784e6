"""Options of a filter: declared once, parsed at load, frozen.

Precedence: the filter's own section of the paste file, then that file's
`[DEFAULT]`, then the files named by `config_file`, then the default. Each call
has a `ConfigOpts` of its own, so two sections of one filter never see each other.
"""

import configparser
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg

from mdmw.errors import ConfigError

#: Known to every section.
CONFIG_FILE = cfg.ListOpt(
    "config_file",
    default=[],
    help="oslo.config files to read options from, for example Neutron's metadata_agent.ini. "
    "The section of the paste file wins over them.",
)
_LOCATION = re.compile(r"LocationInfo\(.*?detail='(.*?)'\)")  # how oslo.config names a file
_PASTE_KEYS = frozenset({"use", "paste.filter_factory", "paste.app_factory", "paste.composite_factory"})


def load(
    name: str,
    options: Sequence[cfg.Opt],
    global_conf: Mapping[str, str],
    local_conf: Mapping[str, str],
) -> SimpleNamespace:
    """Parse one section into a namespace with one attribute per option.

    `name` is the entry point (`hmac-sign`); the section is found in the paste
    file so that the message can name it. Raises `ConfigError`, one line: file,
    section, option, value, what is allowed.
    """
    place = _place(name, global_conf, local_conf)
    known = {spelling: opt for opt in (CONFIG_FILE, *options) for spelling in _spellings(opt)}
    for option in local_conf:
        if option not in known:
            allowed = ", ".join(sorted({opt.dest for opt in known.values()}))
            raise ConfigError(f"{place}: unknown option {option!r}; known are: {allowed}")
    given = {o: v for o, v in global_conf.items() if o in known} | dict(local_conf)
    values = {known[o].dest: _parse(place, known[o], o, text) for o, text in given.items()}
    files = values.pop(CONFIG_FILE.dest, [])

    conf = cfg.ConfigOpts()
    conf.register_opts(options)
    for option, value in values.items():
        conf.set_override(option, value)
    try:
        conf(args=[], project="mdmw", default_config_files=files, default_config_dirs=[], use_env=False)
        settings = {opt.dest: conf[opt.dest] for opt in options}
    except cfg.RequiredOptError as error:
        raise ConfigError(f"{place}: option {error.opt_name!r} is required") from None
    except (cfg.Error, ValueError, OSError) as error:
        raise ConfigError(f"{place}: {_one_line(error)}") from None
    return SimpleNamespace(place=place, **settings)


def refuse(settings: SimpleNamespace, option: str, problem: str) -> ConfigError:
    """The error for a value that parses but cannot be used; `problem` says what is allowed."""
    return ConfigError(f"{settings.place}: option {option!r}: {problem}")


def shown(opt: cfg.Opt, value: object) -> str:
    """A value as text for people; a secret becomes stars."""
    if opt.secret and value:
        return "****"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _parse(place: str, opt: cfg.Opt, option: str, text: str) -> Any:
    try:
        if opt.multi:
            return [opt.type(line.strip()) for line in text.splitlines() if line.strip()]
        return opt.type(text)
    except (ValueError, TypeError) as error:
        shown = "****" if opt.secret else repr(text)
        why = "not allowed" if opt.secret else _one_line(error)
        raise ConfigError(f"{place}: option {option!r}: value {shown}: {why}") from None


def _spellings(opt: cfg.Opt) -> list[str]:
    return [opt.dest, *(old.name.replace("-", "_") for old in opt.deprecated_opts if old.name)]


def _place(name: str, global_conf: Mapping[str, str], local_conf: Mapping[str, str]) -> str:
    path = global_conf.get("__file__")
    if not path:
        return name
    section = _section(path, name, local_conf)
    return f"{path}: [{section}]" if section else f"{path}: {name}"


def _section(path: str, name: str, local_conf: Mapping[str, str]) -> str | None:
    """The section that Paste made this call from: it uses `name` and has these options.

    Paste drops an option that `[DEFAULT]` has too, silently; that is refused here.
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
        if plain - set(defaults) == set(local_conf):
            if dropped := plain & set(defaults):
                raise ConfigError(
                    f"{path}: [{section}]: option {min(dropped)!r} is in [DEFAULT] too, and Paste then "
                    f"ignores the one here; write 'set {min(dropped)} = ...' or take it out of [DEFAULT]"
                )
            return section
    return None


def _one_line(error: object) -> str:
    return _LOCATION.sub(r"\1", " ".join(str(error).split()))
