"""A plan as text, and back: what an unprivileged planner may say to the part that is root.

`loads` takes nothing on trust. What passes it can make namespaces, devices, addresses and rules of
the kinds that a plan is about, and no other.
"""

import dataclasses
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mdmw.node.plan import RA_ROUTE, DhcpPlan, DhcpServer, Listener, Plan, RouterPlan, Wire
from mdmw.node.rules import RouterRules
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6, Scope

T = TypeVar("T")
Check = Callable[[Any], T]

LONGEST = 64 * 1024 * 1024  # characters
_MOST = 100_000  # of anything in a list
_UUID = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_MAC = "[0-9a-f]{2}(?::[0-9a-f]{2}){5}"
_PORT_START = "[0-9a-fA-F-]{11}"
_ADDRESS = "[0-9a-fA-F.:]{2,45}"
_MODES = "(?:static|ra-only|ra-stateless)"


def dumps(plan: Plan) -> str:
    """JSON."""
    return json.dumps(dataclasses.asdict(plan))


def loads(text: str) -> Plan:
    """Raises ValueError, one line, for anything that is not a plan."""
    if len(text) > LONGEST:
        raise ValueError(f"a plan of more than {LONGEST} characters")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("a plan that is nested too deep") from None
    plan = _PLAN(value)
    for dhcp in plan.dhcp:
        _require(dhcp.namespace == f"qdhcp-{dhcp.network_id}", "a namespace of another network")
        for place in dhcp.listeners:
            _require(place.address in _METADATA and place.port == 80, "a listener where no guest is served")
    for router in plan.routers:
        _require(router.namespace == f"qrouter-{router.router_id}", "a namespace of another router")
        for place in router.listeners:
            _require(place.address in _ANY, "a listener where no guest is served")
            _require(place.port == router.rules.redirect_to, "a listener that the rules do not guard")
            _require(place.scope == Scope("router", router.router_id), "a listener of another router")
    return plan


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


# --- checks -----------------------------------------------------------------------------


def _text(what: str, pattern: str) -> Check[str]:
    expression = re.compile(pattern)

    def check(value: Any) -> str:
        _require(isinstance(value, str) and expression.fullmatch(value) is not None, f"not {what}")
        return str(value)

    return check


def _parsed(what: str, parse: Callable[[str], object]) -> Check[str]:
    is_text = _text(what, "[0-9a-fA-F.:/]{2,49}")

    def check(value: Any) -> str:
        text = is_text(value)
        try:
            parse(text)
        except ValueError:
            raise ValueError(f"not {what}") from None
        return text

    return check


def _number(lowest: int, highest: int) -> Check[int]:
    def check(value: Any) -> int:
        _require(type(value) is int and lowest <= value <= highest, f"not a number to {highest}")
        return int(value)

    return check


def _flag(value: Any) -> bool:
    _require(isinstance(value, bool), "neither true nor false")
    return bool(value)


def _optional(check: Check[T]) -> Check[T | None]:
    return lambda value: None if value is None else check(value)


def _list(check: Check[T]) -> Check[tuple[T, ...]]:
    def check_all(value: Any) -> tuple[T, ...]:
        _require(isinstance(value, list) and len(value) <= _MOST, "not a list")
        return tuple(check(item) for item in value)

    return check_all


def _pair(first: Check[str], second: Check[str]) -> Check[tuple[str, str]]:
    def check(value: Any) -> tuple[str, str]:
        _require(isinstance(value, list) and len(value) == 2, "not a pair")
        return first(value[0]), second(value[1])

    return check


def _record(make: Callable[..., T], checks: Mapping[str, Check[Any]]) -> Check[T]:
    """An object with exactly these fields."""

    def check(value: Any) -> T:
        _require(isinstance(value, dict) and value.keys() == checks.keys(), f"not a {make.__name__}")
        fields = {}
        for name, check_field in checks.items():
            try:
                fields[name] = check_field(value[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return make(**fields)

    return check


# --- the form of a plan -----------------------------------------------------------------

_METADATA = (METADATA_ADDRESS, METADATA_ADDRESS_V6)
_ANY = ("0.0.0.0", "::")  # noqa: S104 - its rules keep others out (P-7)

_uuid = _text("a UUID", _UUID)
_line = _text("a line of text", "[ -~]{1,1000}")
_with_prefix = _parsed("an address with prefix length", ipaddress.ip_interface)
_address = _parsed("an address", ipaddress.ip_address)
_device = _text("a device of a port", f"(?:tap|ns-|qr-){_PORT_START}")
_qr_device = _text("a router's device", f"qr-{_PORT_START}")

_SCOPE = _record(Scope, {"kind": _text("a scope", "network|router"), "id": _uuid})
_LISTENER = _record(
    Listener,
    {"address": _address, "port": _number(1, 65535), "scope": _SCOPE, "device": _optional(_device)},
)
_WIRE = _record(
    Wire,
    {
        "device": _device,
        "outer": _text("a device of ours", f"mdmw{_PORT_START}"),
        "bridge": _text("a bridge", "[A-Za-z0-9][A-Za-z0-9_.-]{0,14}"),
        "mac": _text("a MAC address", _MAC),
        "mtu": _optional(_number(68, 65535)),
    },
)
_SERVER = _record(
    DhcpServer,
    {
        "ranges": _list(
            _text("a range", f"set:subnet-{_UUID},{_ADDRESS},{_MODES},[0-9.]{{1,15}},[0-9]{{1,10}}s")
        ),
        "hosts": _list(_text("a host", rf"{_MAC},host-[0-9a-f-]{{2,45}},\[?{_ADDRESS}\]?")),
    },
)
_DHCP = _record(
    DhcpPlan,
    {
        "namespace": _text("a namespace of a network", f"qdhcp-{_UUID}"),
        "network_id": _uuid,
        "device": _device,
        "addresses": _list(_with_prefix),
        "gateways": _list(_address),
        "options": _list(_line),
        "listeners": _list(_LISTENER),
        "row": _number(1, 7),
        "warnings": _list(_line),
        "wire": _optional(_WIRE),
        "server": _optional(_SERVER),
    },
)
_RULES = _record(
    RouterRules,
    {
        "mark": _number(1, 0xFFFF),
        "redirect_to": _optional(_number(1, 65535)),
        "forward_to": _list(_qr_device),
        "ipv6": _flag,
    },
)
_ROUTER = _record(
    RouterPlan,
    {
        "namespace": _text("a namespace of a router", f"qrouter-{_UUID}"),
        "router_id": _uuid,
        "rules": _RULES,
        "listeners": _list(_LISTENER),
        "ra_routes": _list(_pair(_qr_device, _text("a route", re.escape(RA_ROUTE)))),
        "wires": _list(_WIRE),
        "addresses": _list(_pair(_qr_device, _with_prefix)),
    },
)
_PLAN = _record(Plan, {"dhcp": _list(_DHCP), "routers": _list(_ROUTER)})
