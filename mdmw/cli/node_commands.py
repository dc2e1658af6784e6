"""The work of `mdmw node plan`, `mdmw node apply` and `mdmw node remove`.

A module of its own, because `mdmw` must work where the libraries of a network node are not installed.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from mdmw.cli.common import table
from mdmw.cli.node_source import given
from mdmw.errors import Unavailable
from mdmw.node.converge import ConvergeReport, converge, examine
from mdmw.node.difference import Difference
from mdmw.node.plan import DhcpPlan, Plan, RouterPlan, plan
from mdmw.node.settings import NodeSettings, load

_DAD_PATIENCE = 5.0  # seconds that IPv6 duplicate address detection may take
_PAUSE = 0.2


def show(arguments: argparse.Namespace) -> int:
    """Print the plan, and the changes that would lead to it; the exit status."""
    node = load(given(arguments))
    planned = _plan(node)
    if planned is None:
        return 1
    found = examine(planned, node.places)
    if arguments.json:
        print(json.dumps({"plan": asdict(planned), "difference": [_shown(one) for one in found]}, indent=2))
    else:
        _print(planned, found)
    return int(any(one.actions or one.problem for one in found))


def apply(arguments: argparse.Namespace) -> int:
    """Apply the plan, and wait for IPv6 addresses, which take a second or two; the exit status."""
    node = load(given(arguments))
    planned = _plan(node)
    if planned is None:
        return 1
    report = converge(planned, node.places)
    _tell(report)
    did = bool(report.actions)
    end = time.monotonic() + _DAD_PATIENCE
    while report.waiting and time.monotonic() < end:
        time.sleep(_PAUSE)  # the kernel is looking for duplicates of an address
        report = converge(planned, node.places)
        _tell(report, problems=False)
        did = did or bool(report.actions)
    if not did and not report.problems:
        print("the host is as planned already: nothing was changed")
    return int(bool(report.problems))


def remove(arguments: argparse.Namespace) -> int:
    """Apply an empty plan; the exit status."""
    report = converge(Plan(), load(given(arguments)).places)
    _tell(report)
    if not report.actions and not report.problems:
        print("nothing that mdmw made is left on this host")
    return int(bool(report.problems))


def _plan(node: NodeSettings) -> Plan | None:
    try:
        return plan(node.view(), node.options)
    except Unavailable as error:
        print(f"mdmw: nothing is changed: {error}", file=sys.stderr)
        return None


def _tell(report: ConvergeReport, *, problems: bool = True) -> None:
    for action in report.actions:
        print(action)
    for problem in report.problems if problems else ():
        print(f"mdmw: {problem}", file=sys.stderr)


def _print(planned: Plan, found: list[Difference]) -> None:
    rows = [("NAMESPACE", "SERVED", "AT", "FOR"), *_rows(planned)]
    print(table(rows) if len(rows) > 1 else "this host has no namespace to serve")
    for network in planned.dhcp:
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
        print("the host is as planned already")


def _rows(planned: Plan) -> list[tuple[str, str, str, str]]:
    rows = []
    plans: list[DhcpPlan | RouterPlan] = [*planned.dhcp, *planned.routers]
    for one in plans:
        why = f"row {one.row} of the table" if isinstance(one, DhcpPlan) else _why_router(one)
        served = ("yes, " if one.listeners else "no, ") + why
        places = [(f"{place.address} port {place.port}", str(place.scope)) for place in one.listeners]
        for number, (address, scope) in enumerate(places or [("", "")]):
            rows.append((one.namespace, served, address, scope) if not number else ("", "", address, scope))
    return rows


def _why_router(one: RouterPlan) -> str:
    return "by its packet-filter rules" if one.rules.redirect_to else "enable_metadata_proxy is off"


def _shown(one: Difference) -> dict[str, Any]:
    return {
        "namespace": one.namespace,
        "actions": [str(action) for action in one.actions],
        "problem": one.problem,
        "ipv6": one.ipv6,
    }
