"""What `mdmw node plan`, `mdmw node apply` and `mdmw node remove` do."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from mdmw.cli.common import table
from mdmw.cli.node import given
from mdmw.errors import Unavailable
from mdmw.node.converge import Report, converge, examine
from mdmw.node.difference import Difference
from mdmw.node.plan import DhcpPlan, Plan, RouterPlan, plan
from mdmw.node.settings import Node, load

_DAD_PATIENCE = 5.0  # seconds that IPv6 duplicate address detection may take
_PAUSE = 0.2


def show(arguments: argparse.Namespace) -> int:
    """Print the plan and the difference."""
    node = load(given(arguments))
    wanted = _plan(node)
    if wanted is None:
        return 1
    found = examine(wanted, node.places)
    if arguments.json:
        print(json.dumps({"plan": asdict(wanted), "difference": [_shown(one) for one in found]}, indent=2))
    else:
        _print(wanted, found)
    return int(any(one.actions or one.problem for one in found))


def apply(arguments: argparse.Namespace) -> int:
    """Apply the plan; wait for IPv6 addresses, which take a second or two."""
    node = load(given(arguments))
    wanted = _plan(node)
    if wanted is None:
        return 1
    report = converge(wanted, node.places)
    _tell(report)
    did = bool(report.actions)
    end = time.monotonic() + _DAD_PATIENCE
    while report.waiting and time.monotonic() < end:
        time.sleep(_PAUSE)  # the kernel is looking for duplicates of an address
        report = converge(wanted, node.places)
        _tell(report, problems=False)
        did = did or bool(report.actions)
    if not did and not report.problems:
        print("all is so already: nothing was done")
    return int(bool(report.problems))


def remove(arguments: argparse.Namespace) -> int:
    """Apply a plan of nothing."""
    report = converge(Plan(), load(given(arguments)).places)
    _tell(report)
    if not report.actions and not report.problems:
        print("nothing is left of what was made here")
    return int(bool(report.problems))


def _plan(node: Node) -> Plan | None:
    try:
        return plan(node.view(), node.options)
    except Unavailable as error:
        print(f"mdmw: nothing is touched: {error}", file=sys.stderr)
        return None


def _tell(report: Report, *, problems: bool = True) -> None:
    for action in report.actions:
        print(action)
    for problem in report.problems if problems else ():
        print(f"mdmw: {problem}", file=sys.stderr)


def _print(wanted: Plan, found: list[Difference]) -> None:
    rows = [("NAMESPACE", "SERVED", "AT", "FOR"), *_rows(wanted)]
    print(table(rows) if len(rows) > 1 else "there is nothing to serve on this host")
    for network in wanted.dhcp:
        for warning in network.warnings:
            print(f"warning: {warning}")
    print()
    actions = [action for one in found for action in one.actions]
    problems = [one.problem for one in found if one.problem]
    for action in actions:
        print(f"to do: {action}")
    for problem in problems:
        print(f"problem: {problem}")
    if not actions and not problems:
        print("all is so already")


def _rows(wanted: Plan) -> list[tuple[str, str, str, str]]:
    rows = []
    plans: list[DhcpPlan | RouterPlan] = [*wanted.dhcp, *wanted.routers]
    for one in plans:
        why = f"row {one.row} of the table" if isinstance(one, DhcpPlan) else _why_router(one)
        served = ("yes, " if one.listeners else "no, ") + why
        places = [(f"{place.address} port {place.port}", str(place.scope)) for place in one.listeners]
        for number, (address, scope) in enumerate(places or [("", "")]):
            rows.append((one.namespace, served, address, scope) if not number else ("", "", address, scope))
    return rows


def _why_router(one: RouterPlan) -> str:
    return "by its rules" if one.rules.redirect_to else "enable_metadata_proxy is off"


def _shown(one: Difference) -> dict[str, Any]:
    return {
        "namespace": one.namespace,
        "actions": [str(action) for action in one.actions],
        "problem": one.problem,
        "ipv6": one.ipv6,
    }
