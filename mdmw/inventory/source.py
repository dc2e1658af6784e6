"""Where a filter has its inventory from: a file or a database, read again when it changes."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

from oslo_config import cfg

from mdmw.inventory.file import load
from mdmw.inventory.sqlite import Reader
from mdmw.inventory.values import Inventory
from mdmw.options import refuse
from mdmw.reloading import Reloading, ReloadingFile

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
