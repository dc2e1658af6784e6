"""The YAML file of an inventory: read into `mdmw.inventory.values`, and written from these values.

`etc/inventory.yaml` explains the format. The first mistake is a `ConfigError` with file, line and place.
"""

from pathlib import Path

import yaml

from mdmw.checked_yaml import Node, list_of, read, record
from mdmw.inventory import entries
from mdmw.inventory.entries import check_inventory, of_inventory
from mdmw.inventory.values import Inventory

_ANY_WIDTH = 2**31 - 1
_INVENTORY = record(
    Inventory,
    {
        "networks": list_of(entries.network),
        "routers": list_of(entries.router),
        "instances": list_of(entries.guest),
    },
)


def load(path: Path) -> Inventory:
    """The inventory in a file; raises `ConfigError` for the first mistake."""
    return read(path, _inventory)


def _inventory(root: Node) -> Inventory:
    inventory = _INVENTORY(root)
    check_inventory(inventory, root.at)
    return inventory


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, and characters that cannot be printed as escapes."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if data.isprintable() else '"'
        if "\n" in data and data.replace("\n", "").isprintable():
            style = "|"
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def written(inventory: Inventory) -> str:
    """The text of a file with this inventory. Contents that came from other files are in the text."""
    document = of_inventory(inventory)
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_ANY_WIDTH)
