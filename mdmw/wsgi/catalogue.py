"""The options of every entry point, for `mdmw check`, the reference and oslo's sample generator."""

from collections.abc import Sequence

from oslo_config import cfg

from mdmw.admin import local_operator
from mdmw.admin import settings as admin
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
from mdmw.resolvers.auto import AutoResolver
from mdmw.resolvers.chain import ChainResolver
from mdmw.resolvers.inventory import InventoryResolver
from mdmw.responder import app as responder

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
