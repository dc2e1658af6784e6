"""The options of every entry point, for `mdmw check`, the reference and oslo's sample generator.

A filter or an application is declared in one place, as an entry point. Its options are the `OPTIONS` of the
module that has the factory; `section_options(global_conf, local_conf)` there gives them where they depend on
what the section says. This holds for filters of other packages too.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from oslo_config import cfg

from mdmw import options
from mdmw.wsgi.pipelines import Stage, names, stages

_GROUPS = ("paste.filter_factory", "paste.app_factory")
_OURS = "mdmw."
_SECRET_NAME = re.compile("secret|password|token|key", re.IGNORECASE)


def entry_point_options() -> dict[str, Sequence[cfg.Opt]]:
    """Entry point name of mdmw -> its options; those of the resolvers join instance-resolve at load.

    An entry point whose options another library declares (authtoken: keystonemiddleware) is not here.
    """
    found: dict[str, Sequence[cfg.Opt]] = {}
    for group in _GROUPS:
        for entry in entry_points(group=group):
            if entry.module.startswith(_OURS):
                entry.load()
                if (declared := getattr(sys.modules[entry.module], "OPTIONS", None)) is not None:
                    found[entry.name] = declared
    return found


def resolver_options() -> dict[str, Sequence[cfg.Opt]]:
    """Resolver of mdmw -> its options."""
    entries = entry_points(group="mdmw.resolvers")
    return {entry.name: entry.load().options for entry in entries if entry.module.startswith(_OURS)}


def list_opts() -> list[tuple[None, list[cfg.Opt]]]:
    """For the entry point group `oslo.config.opts`: every option once, as in a `config_file`."""
    everything = (*resolver_options().values(), *entry_point_options().values())
    by_name = {opt.dest: opt for some in everything for opt in some}
    return [(None, [by_name[name] for name in sorted(by_name)])]


def pipelines(path: str, wanted: Iterable[str] = ()) -> dict[str, Any]:
    """`{"file": path, "pipelines": {name: [{"stage", "use", "options"}]}}`; raises `ConfigError`.

    A stage that puts a step of its own behind itself is followed by that step, which has no options.
    """
    found = {
        name: [row for stage in stages(path, name) for row in _rows(stage)] for name in wanted or names(path)
    }
    return {"file": str(path), "pipelines": found}


def _rows(stage: Stage) -> list[dict[str, Any]]:
    row = {"stage": stage.section, "use": stage.entry_point, "options": _shown_options(stage)}
    steps = getattr(sys.modules[stage.module], "steps_behind", None)
    behind: Sequence[str] = steps(stage.global_conf, stage.local_conf) if steps else ()
    return [row, *({"stage": step, "use": f"a step of {stage.section}", "options": {}} for step in behind)]


def _shown_options(stage: Stage) -> Mapping[str, str]:
    """The options that the section gives, and those that are not at their default; secrets are masked."""
    given = stage.local_conf
    known = _known_options(stage)
    if known is None:
        return {name: "****" if _SECRET_NAME.search(name) else value for name, value in given.items()}
    settings = options.load(stage.entry_point, known, stage.global_conf, given)
    values = {opt: getattr(settings, opt.dest) for opt in known}
    return {
        opt.dest: options.shown(opt, value)
        for opt, value in values.items()
        if opt.dest in given or value != opt.default
    }


def _known_options(stage: Stage) -> Sequence[cfg.Opt] | None:
    module = sys.modules[stage.module]
    if (section_options := getattr(module, "section_options", None)) is not None:
        found: Sequence[cfg.Opt] = section_options(stage.global_conf, stage.local_conf)[1]
        return found
    return getattr(module, "OPTIONS", None)
