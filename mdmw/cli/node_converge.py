"""One look of `mdmw-node`, as root: a plan is checked and applied, and the keeper told how it went.

The keeper starts one for each look, so that what this needs costs memory for a moment only.
"""

import argparse
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdmw.node import namespaces
from mdmw.node.channel import MOST_PLACES, TO_CONVERGE, Channel, ChannelError, as_line
from mdmw.node.converge import Report, converge
from mdmw.node.plan import LONGEST, DhcpPlan, Plan, RouterPlan, loads
from mdmw.node.programs import Places
from mdmw.observe.logs import log_to_stderr
from mdmw.records import METADATA_ADDRESS_V6


def main() -> int:
    """Apply one plan."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True)
    channel = Channel(socket.socket(fileno=parser.parse_args().channel), TO_CONVERGE)
    log_to_stderr()
    try:
        message = channel.receive()
        _work(channel, message.descriptors[0], **message.fields)
    except (ChannelError, BrokenPipeError, ConnectionResetError):  # the keeper has gone; what is done stays
        return 1
    return 0


def _work(channel: Channel, descriptor: int, state: str, neutron_dhcp: str | None, firewall: Any) -> None:
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
    """The keeper holds the file, and it is the same at each look: opened anew, it is read from its begin."""
    if os.fstat(descriptor).st_size > LONGEST:
        raise ValueError(f"a plan of more than {LONGEST} bytes")
    return Path(f"/proc/self/fd/{descriptor}").read_text()


def _listeners(plan: Plan, report: Report) -> Iterator[list[Any]]:
    """In the namespaces that are there, without an IPv6 address that is another node's (spec 4.8)."""
    there = namespaces.names()
    plans: list[DhcpPlan | RouterPlan] = [*plan.dhcp, *plan.routers]
    for one in plans:
        for place in one.listeners if one.namespace in there else ():
            if place.address != METADATA_ADDRESS_V6 or one.namespace not in report.without_ipv6:
                scope = [place.scope.kind, place.scope.id]
                yield [one.namespace, [place.address, place.port, place.device], scope]


if __name__ == "__main__":
    sys.exit(main())
