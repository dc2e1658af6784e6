"""The pipelines of an ini file for people: each stage with its options, secrets masked."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from oslo_config import cfg

from mdmw import options
from mdmw.filters import instance_resolve
from mdmw.wsgi import catalogue
from mdmw.wsgi.pipelines import Stage, names, stages

_SECRET_NAME = re.compile("secret|password|token|key", re.IGNORECASE)


def pipelines(path: str, wanted: Iterable[str] = ()) -> dict[str, Any]:
    """`{"file": path, "pipelines": {name: [{"stage", "use", "options"}]}}`; raises `ConfigError`."""
    found = {
        name: [{"stage": s.section, "use": s.entry_point, "options": _options(s)} for s in stages(path, name)]
        for name in wanted or names(path)
    }
    return {"file": str(path), "pipelines": found}


def _options(stage: Stage) -> dict[str, str]:
    """What the stage runs with: options that are given, or are not at their default."""
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
    if stage.entry_point == "instance-resolve":
        return instance_resolve.section_options(stage.global_conf, stage.local_conf)[1]
    return catalogue.OPTIONS.get(stage.entry_point)
