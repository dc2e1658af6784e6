"""The values of an inventory as documents again: what JSON and YAML can say, as in `etc/inventory.yaml`.

A document has no key whose value is the default, so that equal entries have equal documents.
"""

import base64
import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Any

from mdmw.inventory.values import Guest, Inventory, Network, Router

Entry = Network | Router | Guest

_KEYS = {"network_id": "network", "subnet_id": "subnet"}


def of_inventory(inventory: Inventory) -> dict[str, Any]:
    """The document of a whole file."""
    return _of(inventory)


def of_entry(entry: Entry) -> dict[str, Any]:
    """The document of one network, router or instance."""
    return _of(entry)


def _of(value: Any) -> dict[str, Any]:
    names = {field.name: _is_needed(field) for field in dataclasses.fields(value)}
    plain = type(value)(**{name: getattr(value, name) for name, needed in names.items() if needed})
    return dict(
        _pair(name, getattr(value, name))
        for name, needed in names.items()
        if needed or getattr(value, name) != getattr(plain, name)
    )


def _is_needed(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _pair(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, bytes):
        try:
            return name, value.decode()
        except UnicodeDecodeError:
            return f"{name}_base64", base64.b64encode(value).decode()
    return _KEYS.get(name, name), _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return _of(value)
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return str(value)
    return dict(value) if isinstance(value, Mapping) else value
