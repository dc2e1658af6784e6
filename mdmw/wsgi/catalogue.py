"""The options of every entry point, for `mdmw check`, the reference and oslo's sample generator."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from oslo_config import cfg

from mdmw import options
from mdmw.admin import app as admin
from mdmw.admin import local_operator
from mdmw.filters import (
    access_log,
    agent_forward,
    hmac_sign,
    hmac_verify,
    instance_resolve,
    introspect,
    metrics,
    nova_forward,
    source_identify,
    trace,
)
from mdmw.operations import exposition, health
from mdmw.resolvers.combined import AutoResolver, ChainResolver
from mdmw.resolvers.inventory import InventoryResolver
from mdmw.responder import app as responder
from mdmw.wsgi.pipelines import Stage, names, stages

#: Entry point name -> its options. Those of the resolver join instance-resolve at load.
OPTIONS: dict[str, Sequence[cfg.Opt]] = {
    "access-log": access_log.OPTIONS,
    "trace": trace.OPTIONS,
    "source-identify": source_identify.OPTIONS,
    "instance-resolve": instance_resolve.OPTIONS,
    "hmac-sign": hmac_sign.OPTIONS,
    "hmac-verify": hmac_verify.OPTIONS,
    "nova-forward": nova_forward.OPTIONS,
    "agent-forward": agent_forward.OPTIONS,
    "responder": responder.OPTIONS,
    "local-operator": local_operator.OPTIONS,
    "admin": admin.OPTIONS,
    "introspect": introspect.OPTIONS,
    "metrics": metrics.OPTIONS,
    "dashboard": (),
    "exposition": exposition.OPTIONS,
    "health": health.OPTIONS,
}

#: Resolver -> its options. `auto` takes those of neutron and of neutron-rpc.
RESOLVERS: dict[str, Sequence[cfg.Opt]] = {
    "inventory": InventoryResolver.options,
    "auto": AutoResolver.options,
    "chain": ChainResolver.options,
}


def list_opts() -> list[tuple[None, list[cfg.Opt]]]:
    """For the entry point group `oslo.config.opts`: every option once, as in a `config_file`."""
    by_name = {opt.dest: opt for options in (*RESOLVERS.values(), *OPTIONS.values()) for opt in options}
    return [(None, [by_name[name] for name in sorted(by_name)])]


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
    return OPTIONS.get(stage.entry_point)
