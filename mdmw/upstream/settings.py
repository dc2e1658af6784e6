"""The options that every upstream has, under a prefix of its own."""

from types import SimpleNamespace

from oslo_config import cfg

from mdmw.errors import ConfigError
from mdmw.upstream.exchange import Limits

_DAY = 86400.0


def limit_options(prefix: str, read_timeout: float, total_timeout: float) -> list[cfg.Opt]:
    """Options for the fields of `Limits`; durations are seconds."""
    default = Limits()
    return [
        cfg.FloatOpt(
            f"{prefix}_connect_timeout",
            default=default.connect_timeout,
            min=0.01,
            max=_DAY,
            help="Seconds to connect.",
        ),
        cfg.FloatOpt(
            f"{prefix}_timeout",
            default=read_timeout,
            min=0.01,
            max=_DAY,
            help="Seconds without a byte of the answer.",
        ),
        cfg.FloatOpt(
            f"{prefix}_total_timeout",
            default=total_timeout,
            min=0.01,
            max=_DAY,
            help="Seconds for the whole request, queueing and retries included; less than the caller waits.",
        ),
        cfg.IntOpt(
            f"{prefix}_max_connections",
            default=default.max_connections,
            min=1,
            help="Requests under way at once, per process.",
        ),
        cfg.IntOpt(
            f"{prefix}_max_waiting",
            default=default.max_waiting,
            min=0,
            help="Requests that may wait for one of these; more get 503 at once.",
        ),
        cfg.FloatOpt(
            f"{prefix}_queue_timeout",
            default=default.queue_timeout,
            min=0,
            max=_DAY,
            help="Seconds a request waits before it gets 503.",
        ),
        cfg.FloatOpt(
            f"{prefix}_idle_timeout",
            default=default.idle_timeout,
            min=0,
            max=_DAY,
            help="Seconds for which an idle connection is kept.",
        ),
        cfg.FloatOpt(
            f"{prefix}_cooldown",
            default=default.cooldown,
            min=0,
            max=_DAY,
            help="Seconds for which an address that could not be connected to is asked last.",
        ),
    ]


def limits_of(settings: SimpleNamespace, prefix: str) -> Limits:
    """`Limits` from the options of `limit_options(prefix)`; raises `ConfigError` when they contradict."""

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
