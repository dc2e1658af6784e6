"""Reads the haproxy configuration that Neutron's agents write for a network or router (spec 4.7)."""

import re
from dataclasses import dataclass

from mdmw.node.namespaces import Bind

_BIND = re.compile(r"bind\s+(\S*):([0-9]+)(?:\s+interface\s+(\S+))?")
_ID = re.compile(r"http-request\s+(?:set|add)-header\s+X-(?:Neutron|Quantum|OVN)-(Network|Router)-ID\s+(\S+)")
_RATE_LIMIT = re.compile(r"http-request\s+deny\s+deny_status\s+429\b.*")
_SERVER = re.compile(r"server\s+\S+\s+(/\S+).*")
_SETTING = re.compile(r"(pidfile|user|group)\s+(\S+)")


@dataclass(frozen=True, slots=True)
class HaproxyConfiguration:
    """What a configuration says.

    `ids` has pairs of "network" or "router" and an id, which may be any text. `agent_socket` is the path of
    the socket that the requests go to. `pid_file`, `user` and `group` are empty where the configuration has
    none.
    """

    ids: frozenset[tuple[str, str]]
    binds: tuple[Bind, ...]
    agent_socket: str
    pid_file: str
    user: str
    group: str
    has_rate_limits: bool


def parse(text: str) -> HaproxyConfiguration:
    """The parts of a configuration that mdmw needs. Lines that mdmw does not know are left out."""
    lines = [line.strip() for line in text.splitlines()]
    settings: dict[str, str] = {}
    for found in filter(None, map(_SETTING.fullmatch, lines)):
        settings.setdefault(found[1], found[2])
    servers = [found[1] for found in filter(None, map(_SERVER.fullmatch, lines))]
    return HaproxyConfiguration(
        ids=frozenset((found[1].lower(), found[2]) for found in filter(None, map(_ID.fullmatch, lines))),
        binds=tuple(_bind(found) for found in filter(None, map(_BIND.fullmatch, lines))),
        agent_socket=next(iter(servers), ""),
        pid_file=settings.get("pidfile", ""),
        user=settings.get("user", ""),
        group=settings.get("group", ""),
        has_rate_limits=any(map(_RATE_LIMIT.fullmatch, lines)),
    )


def _bind(found: re.Match[str]) -> Bind:
    address = found[1].strip("[]")
    if address in ("", "*"):
        address = "0.0.0.0"  # noqa: S104 - what haproxy understands by '*'
    return Bind(address, int(found[2]), found[3])
