"""The YAML file of an inventory, read into the values of `mdmw.inventory`.

`etc/inventory.yaml` explains the format. Every mistake is a `ConfigError` with file,
line and place; the first one is enough, because the last good inventory stays in use.
"""

from pathlib import Path

from mdmw import inventory_format, inventory_whole
from mdmw.checked_yaml import Node, list_of, read, record
from mdmw.inventory import Inventory

_INVENTORY = record(
    Inventory,
    {
        "networks": list_of(inventory_format.network),
        "routers": list_of(inventory_format.router),
        "instances": list_of(inventory_format.guest),
    },
)


def load(path: Path) -> Inventory:
    """The inventory in a file; raises `ConfigError` for the first mistake."""
    return read(path, _inventory)


def _inventory(root: Node) -> Inventory:
    inventory = _INVENTORY(root)
    inventory_whole.check(inventory, root.at)
    return inventory
