"""From a plan to a node that is as planned: inspect, compare and apply, one namespace after the other.

As a program, this applies one plan for the keeper, as root, and ends. The keeper starts the program again for
each run, so that its memory is in use only for a moment.
"""

import argparse
import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.locking import locked
from mdmw.node import namespaces
from mdmw.node.actions import Action
from mdmw.node.channel import MOST_PLACES, TO_CONVERGE, Channel, ChannelError, as_line
from mdmw.node.desired import DesiredState, Places, each_desired_state, nothing_desired
from mdmw.node.difference import Difference, difference
from mdmw.node.inspect import observe
from mdmw.node.namespaces import CommandError
from mdmw.node.plan import LONGEST, DhcpPlan, Plan, RouterPlan, loads
from mdmw.observe.logs import log_to_stderr
from mdmw.records import METADATA_ADDRESS_V6
from mdmw.wire import one_line

LOG = logging.getLogger("mdmw.node.converge")  # not __name__, which is __main__ in the program

_ADVICE = {
    errno.ENOSPC: "make room on the disk; the last plan stays in force",
    errno.EDQUOT: "make room on the disk; the last plan stays in force",
    errno.EROFS: "the file system is read-only",
    errno.EPERM: "run mdmw-node as root, with the capabilities NET_ADMIN and SYS_ADMIN",
    errno.EACCES: "run mdmw-node as root, with the capabilities NET_ADMIN and SYS_ADMIN",
}
#: Program -> Debian package.
_PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "iptables": "iptables",
    "ip6tables": "iptables",
    "dnsmasq": "dnsmasq-base",
    "radvd": "radvd",
}


@dataclass(frozen=True, slots=True)
class ConvergeReport:
    """How a run went. Each of `problems` is one line: what is wrong, where, and what a person must do.

    `waiting` has the namespaces in which IPv6 duplicate address detection is under way: run again in a
    second. `without_ipv6` has the namespaces that do without IPv6, because another node has the address.
    """

    actions: tuple[Action, ...] = ()
    problems: tuple[str, ...] = ()
    waiting: frozenset[str] = frozenset()
    without_ipv6: frozenset[str] = frozenset()


def examine(plan: Plan, places: Places) -> list[Difference]:
    """What `converge` would do, for each namespace; changes nothing.

    A namespace that cannot be inspected has a `Difference` with a problem.
    """
    return [_examine(one, places) for one in _desired_states(plan, places)]


def converge(plan: Plan, places: Places) -> ConvergeReport:
    """Change the node until it is as planned. A problem in one namespace does not stop the others."""
    done: list[Action] = []
    problems: list[str] = []
    ipv6: dict[str, str] = {}
    try:
        places.state.mkdir(mode=0o755, parents=True, exist_ok=True)
        with locked(places.state / "lock", patience=None):  # one run at a time on a node (LP#1920778)
            for one in _desired_states(plan, places):
                found = _examine(one, places)
                ipv6[one.namespace] = found.ipv6
                problem = found.problem
                for action in found.actions if not problem else ():
                    problem = _apply(action, places)
                    if problem:
                        break
                    done.append(action)
                problems += [problem] if problem else []
    except OSError as error:
        problems.append(_line(str(places.state), error))
    return ConvergeReport(
        tuple(done),
        tuple(problems),
        waiting=frozenset(name for name, state in ipv6.items() if state == "waiting"),
        without_ipv6=frozenset(name for name, state in ipv6.items() if state == "lost"),
    )


def main() -> int:
    """Apply one plan, and tell the keeper how it went."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True)
    channel = Channel(socket.socket(fileno=parser.parse_args().channel), TO_CONVERGE)
    log_to_stderr()
    try:
        message = channel.receive()
        _converge_for_keeper(channel, message.descriptors[0], **message.fields)
    except (ChannelError, BrokenPipeError, ConnectionResetError):  # the keeper has ended
        return 1
    return 0


def _desired_states(plan: Plan, places: Places) -> Iterator[DesiredState]:
    """The state of each namespace; first of the namespaces of earlier plans, which must have nothing now."""
    planned = {*(dhcp.namespace for dhcp in plan.dhcp), *(router.namespace for router in plan.routers)}
    past = sorted(path.stem for path in places.state.glob("q*.json") if path.stem not in planned)
    yield from (nothing_desired(name, places) for name in past)
    yield from each_desired_state(plan, places)


def _examine(one: DesiredState, places: Places) -> Difference:
    try:
        return difference(one, observe(one, places), places, time.time())
    except (OSError, CommandError) as error:
        return Difference(one.namespace, problem=_line(f"{one.namespace}: cannot be inspected", error))


def _apply(action: Action, places: Places) -> str:
    """What went wrong, as one line; empty when the action is done."""
    from mdmw.node.apply import apply  # imports pyroute2, 20 MiB; most runs have nothing to apply

    try:
        apply(action, places)
    except (OSError, CommandError) as error:
        return _line(str(action), error)
    LOG.info("%s", action)
    return ""


def _line(what: str, error: Exception) -> str:
    text = f"{what}: {one_line(str(error))}"
    if not isinstance(error, OSError):
        return text
    if error.errno == errno.ENOENT and error.filename in _PACKAGES:
        return f"{what}: {error.filename} is not installed; install {_PACKAGES[error.filename]}"
    advice = _ADVICE.get(error.errno or 0)
    return f"{text}; {advice}" if advice else text


# --- the program ------------------------------------------------------------------------


def _converge_for_keeper(
    channel: Channel, descriptor: int, state: str, neutron_dhcp: str | None, firewall: Any
) -> None:
    try:
        plan = loads(_text(descriptor))
    except ValueError as error:
        channel.send("refused", why=as_line(str(error)))
        return
    report = converge(plan, Places(Path(state), Path(neutron_dhcp) if neutron_dhcp else None, firewall))
    listeners = list(_listeners(plan, report))
    for start in range(0, len(listeners), MOST_PLACES):
        channel.send("listen", listeners=listeners[start : start + MOST_PLACES])
    for problem in report.problems:
        channel.send("problem", what=as_line(problem))
    channel.send("report", actions=len(report.actions), waiting=len(report.waiting))


def _text(descriptor: int) -> str:
    """The content of the file, from its start: opened anew, because every run shares the file's position."""
    if os.fstat(descriptor).st_size > LONGEST:
        raise ValueError(f"a plan of more than {LONGEST} bytes")
    return Path(f"/proc/self/fd/{descriptor}").read_text()


def _listeners(plan: Plan, report: ConvergeReport) -> Iterator[list[Any]]:
    """The planned listeners whose namespace exists, without IPv6 addresses of another node (spec 4.8)."""
    existing = namespaces.names()
    plans: list[DhcpPlan | RouterPlan] = [*plan.dhcp, *plan.routers]
    for one in plans:
        for planned in one.listeners if one.namespace in existing else ():
            if planned.address != METADATA_ADDRESS_V6 or one.namespace not in report.without_ipv6:
                scope = [planned.scope.kind, planned.scope.id]
                yield [one.namespace, [planned.address, planned.port, planned.device], scope]


if __name__ == "__main__":
    sys.exit(main())
