"""The options that every upstream has, each with the prefix of this upstream."""

from types import SimpleNamespace

from oslo_config import cfg

from mdmw.errors import ConfigError
from mdmw.upstream.exchange import Limits

_DAY = 86400.0
_SERVICES = {"nova": "Nova", "neutron": "Neutron", "agent": "the agent"}  # by prefix, for the help


def limit_options(prefix: str, read_timeout: float, total_timeout: float) -> list[cfg.Opt]:
    """The options for the fields of `Limits`. `prefix` is for example `nova`. Durations are seconds."""
    default = Limits()
    service = _SERVICES.get(prefix, prefix)
    return [
        cfg.FloatOpt(
            f"{prefix}_connect_timeout",
            default=default.connect_timeout,
            min=0.01,
            max=_DAY,
            help=f"Seconds for connecting to {service}.",
        ),
        cfg.FloatOpt(
            f"{prefix}_timeout",
            default=read_timeout,
            min=0.01,
            max=_DAY,
            help=f"Seconds without a byte from {service}, after which mdmw gives the request up.",
        ),
        cfg.FloatOpt(
            f"{prefix}_total_timeout",
            default=total_timeout,
            min=0.01,
            max=_DAY,
            help=f"Seconds for a whole request to {service}, with waiting and retries. Must be less than the "
            "time that the caller waits.",
        ),
        cfg.IntOpt(
            f"{prefix}_max_connections",
            default=default.max_connections,
            min=1,
            help=f"Requests to {service} that one process sends at the same time.",
        ),
        cfg.IntOpt(
            f"{prefix}_max_waiting",
            default=default.max_waiting,
            min=0,
            help=f"Requests to {service} that wait for a free connection. Further guests get 503 at once.",
        ),
        cfg.FloatOpt(
            f"{prefix}_queue_timeout",
            default=default.queue_timeout,
            min=0,
            max=_DAY,
            help=f"Seconds that a request waits for a free connection to {service}; then the guest gets 503.",
        ),
        cfg.FloatOpt(
            f"{prefix}_idle_timeout",
            default=default.idle_timeout,
            min=0,
            max=_DAY,
            help=f"Seconds for which an idle connection to {service} is kept.",
        ),
        cfg.FloatOpt(
            f"{prefix}_cooldown",
            default=default.cooldown,
            min=0,
            max=_DAY,
            help=f"Seconds for which mdmw tries other addresses of {service} first, after an address failed.",
        ),
    ]


def limits_of(settings: SimpleNamespace, prefix: str) -> Limits:
    """`Limits` from the options of `limit_options(prefix)`; raises `ConfigError` for a contradiction."""

    def of(name: str) -> float:
        value: float = getattr(settings, f"{prefix}_{name}")
        return value

    if of("timeout") > of("total_timeout"):
        raise ConfigError(
            f"{settings.place}: option '{prefix}_timeout': {of('timeout'):g} is more than "
            f"{prefix}_total_timeout, {of('total_timeout'):g}"
        )
    return Limits(
        connect_timeout=of("connect_timeout"),
        read_timeout=of("timeout"),
        total_timeout=of("total_timeout"),
        max_connections=int(of("max_connections")),
        max_waiting=int(of("max_waiting")),
        queue_timeout=of("queue_timeout"),
        idle_timeout=of("idle_timeout"),
        cooldown=of("cooldown"),
    )
