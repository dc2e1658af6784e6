"""From a plan to a node on which it is so: observe, compare, apply, one namespace after the other."""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mdmw.node.actions import Action
from mdmw.node.difference import Difference, difference
from mdmw.node.inspect import observe
from mdmw.node.namespaces import CommandError
from mdmw.node.plan import Plan
from mdmw.node.programs import Places, Wanted, each_wanted, nothing_wanted

LOG = logging.getLogger(__name__)

_ADVICE = {
    errno.ENOSPC: "make room on the disk; what was in force stays in force",
    errno.EDQUOT: "make room on the disk; what was in force stays in force",
    errno.EROFS: "the file system is read-only",
    errno.EPERM: "run it as root, with the capabilities NET_ADMIN and SYS_ADMIN",
    errno.EACCES: "run it as root, with the capabilities NET_ADMIN and SYS_ADMIN",
}
_PROGRAMS = {
    "nft": "nftables",
    "iptables": "iptables",
    "ip6tables": "iptables",
    "dnsmasq": "dnsmasq-base",
    "radvd": "radvd",
}


@dataclass(frozen=True, slots=True)
class Report:
    """How a run went. `problems`: one line each, what, where, and what a person must do.

    `waiting`: namespaces in which IPv6 duplicate address detection is not over; run again in a
    second. `without_ipv6`: those that gave it up because another node has the address.
    """

    actions: tuple[Action, ...] = ()
    problems: tuple[str, ...] = ()
    waiting: frozenset[str] = frozenset()
    without_ipv6: frozenset[str] = frozenset()


def examine(plan: Plan, places: Places) -> list[Difference]:
    """What would be done; touches nothing. What cannot be seen is a problem of its namespace."""
    return [_examine(one, places) for one in _all(plan, places)]


def converge(plan: Plan, places: Places) -> Report:
    """Make it so. A fault in one namespace does not keep the others from theirs."""
    done: list[Action] = []
    problems: list[str] = []
    ipv6: dict[str, str] = {}
    try:
        with _alone(places):
            for one in _all(plan, places):
                found = _examine(one, places)
                ipv6[one.namespace] = found.ipv6
                problem = found.problem
                for action in found.actions if not problem else ():
                    problem = _do(action, places)
                    if problem:
                        break
                    done.append(action)
                problems += [problem] if problem else []
    except OSError as error:
        problems.append(_line(str(places.state), error))
    return Report(
        tuple(done),
        tuple(problems),
        waiting=frozenset(name for name, state in ipv6.items() if state == "waiting"),
        without_ipv6=frozenset(name for name, state in ipv6.items() if state == "lost"),
    )


def _all(plan: Plan, places: Places) -> Iterator[Wanted]:
    """What is wanted, and before it the namespaces of earlier plans, of which nothing is wanted."""
    planned = {*(dhcp.namespace for dhcp in plan.dhcp), *(router.namespace for router in plan.routers)}
    past = sorted(path.stem for path in places.state.glob("q*.json") if path.stem not in planned)
    yield from (nothing_wanted(name, places) for name in past)
    yield from each_wanted(plan, places)


def _examine(one: Wanted, places: Places) -> Difference:
    try:
        return difference(one, observe(one, places), places, time.time())
    except (OSError, CommandError) as error:
        return Difference(one.namespace, problem=_line(f"{one.namespace}: cannot be seen", error))


def _do(action: Action, places: Places) -> str:
    """What went wrong, as one line; empty if it is done."""
    from mdmw.node.apply import apply  # and with it pyroute2: 20 MiB, which most looks do without

    try:
        apply(action, places)
    except (OSError, CommandError) as error:
        return _line(str(action), error)
    LOG.info("%s", action)
    return ""


def _line(what: str, error: Exception) -> str:
    text = f"{what}: {' '.join(str(error).split())}"
    if not isinstance(error, OSError):
        return text
    if error.errno == errno.ENOENT and error.filename in _PROGRAMS:
        return f"{what}: {error.filename} is not installed; install {_PROGRAMS[error.filename]}"
    advice = _ADVICE.get(error.errno or 0)
    return f"{text}; {advice}" if advice else text


@contextmanager
def _alone(places: Places) -> Iterator[None]:
    """One run at a time on a node (LP#1920778)."""
    places.state.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(places.state / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
