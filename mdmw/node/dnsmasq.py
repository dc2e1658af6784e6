"""dnsmasq: its command line and its files, as text (spec 4.5)."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdmw.node.plan import DhcpPlan, DhcpServer
from mdmw.node.program import Program
from mdmw.records import METADATA_ADDRESS

_MOST_LEASES = 65536
_IPV6_OPTION = ",option6:"
_ROUTES = ("option:classless-static-route", "249")


@dataclass(frozen=True, slots=True)
class NeutronOptions:
    """The options file of Neutron's dnsmasq, and the lines that ours would have."""

    directory: Path
    lines: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The options file."""
        return self.directory / "opts"

    @property
    def pid_file(self) -> Path:
        """Written by Neutron's dnsmasq."""
        return self.directory / "pid"


def dnsmasq(plan: DhcpPlan, server: DhcpServer, directory: Path) -> Program:
    """The dnsmasq of a network; nothing of it changes while the subnets stay the same.

    It announces IPv6 subnets, and no way out: of routers it knows nothing.
    """
    hosts, options = directory / "hosts", directory / "opts"
    ipv6 = [line for line in plan.options if _IPV6_OPTION in line]
    has_ipv6 = any(":" in text.partition(",")[2] for text in server.ranges)
    argv = (
        "dnsmasq",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--except-interface=lo",
        f"--interface={plan.device}",
        "--bind-dynamic",  # --bind-interfaces ends at an IPv6 address that is still tentative
        f"--pid-file={directory / 'pid'}",
        f"--dhcp-hostsfile={hosts}",
        f"--dhcp-optsfile={options}",
        f"--dhcp-leasefile={directory / 'leases'}",
        f"--dhcp-lease-max={_MOST_LEASES}",
        "--dhcp-authoritative",
        *(("--enable-ra", f"--ra-param={plan.device},0,0") if has_ipv6 else ()),
        *(f"--dhcp-option={line}" for line in ipv6),  # it reads no file where it only announces
        *(f"--dhcp-range={text}" for text in server.ranges),
    )
    lines = [line for line in plan.options if line not in ipv6]
    return Program(directory, argv, ((hosts, _lines(server.hosts)), (options, _lines(lines))))


def merged(current: str, lines: Sequence[str], *, restore: bool) -> str:
    """Neutron's options file with our routes (options 121 and 249) in place of its own.

    Where we have none Neutron's stay, unless they may be ours, as `restore` says: then the one
    to the metadata address goes. The default gateway is Neutron's.
    """
    ours = {_subject(line): line for line in lines if _is_route(line)}
    kept = []
    for line in current.splitlines():
        if _is_route(line):
            line = ours.pop(_subject(line), _without_ours(line) if restore else line)
        kept += [line] if line else []
    return _lines([*kept, *ours.values()])


def _without_ours(line: str) -> str:
    """Without the route to a DHCP port; one to the gateway is Neutron's (4.5). Empty if none is left."""
    tag, option, *rest = line.split(",")
    routes = list(zip(rest[::2], rest[1::2], strict=False))
    gateways = [hop for destination, hop in routes if destination == "0.0.0.0/0"]
    kept = [(to, hop) for to, hop in routes if to != f"{METADATA_ADDRESS}/32" or hop in gateways]
    if kept == routes:
        return line
    if all(to == "0.0.0.0/0" for to, _ in kept):
        return ""
    return ",".join([tag, option, *itertools.chain(*kept)])


def _is_route(line: str) -> bool:
    return line.split(",", 2)[1:2] != [] and line.split(",", 2)[1] in _ROUTES


def _subject(line: str) -> str:
    """Tag and option."""
    return ",".join(line.split(",", 2)[:2])


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
