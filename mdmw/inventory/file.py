"""The YAML file of an inventory, read into the values of `mdmw.inventory.values`, and written from them.

`etc/inventory.yaml` explains the format. Every mistake is a `ConfigError` with file,
line and place; the first one is enough, because the last good inventory stays in use.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import yaml
from oslo_config import cfg

from mdmw.checked_yaml import Node, list_of, read, record
from mdmw.inventory import entries
from mdmw.inventory.entries import check_inventory, of_inventory
from mdmw.inventory.sqlite import Reader
from mdmw.inventory.values import Inventory
from mdmw.options import refuse
from mdmw.reloading import Reloading, ReloadingFile

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
    """Writes text of several lines as such, and what is unusual in text as escapes."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if data.isprintable() else '"'
        if "\n" in data and data.replace("\n", "").isprintable():
            style = "|"
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def written(inventory: Inventory) -> str:
    """The text of a file that says the same; what was in files of its own is in it."""
    document = of_inventory(inventory)
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_ANY_WIDTH)


T = TypeVar("T")

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "inventory_file",
        help="YAML file with networks, routers and instances. Read again when it changes; "
        "a version with a mistake is logged, and the last good one stays in use. "
        "Either this or inventory_db is needed.",
    ),
    cfg.StrOpt(
        "inventory_db",
        help="SQLite database with networks, routers and instances, in place of inventory_file; "
        "'mdmw inventory import' makes one. A change counts within a second.",
    ),
]

_LOOK_SECONDS = 0.5


def reloading(settings: SimpleNamespace, make: Callable[[Inventory], T]) -> Reloading[T]:
    """What `make` makes of the inventory that `settings` name, always of the newest; raises `ConfigError`."""
    file, database = (vars(settings).get(option.dest) for option in OPTIONS)
    if file and database:
        raise refuse(settings, "inventory_db", "inventory_file is given too; one of them is allowed")
    if file:
        return ReloadingFile(file, lambda path: make(load(path)))
    if not database:
        raise refuse(settings, "inventory_file", "it is required, or inventory_db")
    reader = Reader(Path(database))
    return Reloading(database, reader.look, lambda: make(reader.read()), _LOOK_SECONDS)
