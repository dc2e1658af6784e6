"""The inventory of the stages of a pipeline: a file or a database, read again when it changes."""

from collections.abc import Callable, Hashable
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

from oslo_config import cfg

from mdmw.inventory.file import load
from mdmw.inventory.parsing_process import load_aside
from mdmw.inventory.sqlite import Reader
from mdmw.inventory.values import Inventory
from mdmw.options import refuse
from mdmw.reloading import Derived, Reloading, ReloadingFile

T = TypeVar("T")

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "inventory_file",
        help="YAML file with networks, routers and instances. mdmw reads it again when it changes. "
        "When a changed file has a mistake, mdmw logs the mistake and keeps the last good content. "
        "Either inventory_file or inventory_db is required.",
    ),
    cfg.StrOpt(
        "inventory_db",
        help="SQLite database with networks, routers and instances, instead of inventory_file. "
        "'mdmw inventory import' makes such a database. mdmw sees a change of the database within a second.",
    ),
]

_LOOK_SECONDS = 0.5


def inventory_of(settings: SimpleNamespace) -> Reloading[Inventory]:
    """The inventory that `settings` name; raises `ConfigError`.

    The stages of one pipeline that name the same file or database get the same object
    (`settings.shared`), so that it is parsed and kept in memory once.
    """
    file, database = (vars(settings).get(option.dest) for option in OPTIONS)
    if file and database:
        raise refuse(settings, "inventory_db", "inventory_file is given too; one of them is allowed")
    if not (file or database):
        raise refuse(settings, "inventory_file", "it is required, or inventory_db")
    shared: dict[Hashable, Reloading[Inventory]] = vars(settings).get("shared", {})
    key = ("inventory", file, database)
    if key not in shared:
        shared[key] = _open(file, database)
    return shared[key]


def from_inventory(settings: SimpleNamespace, make: Callable[[Inventory], T]) -> Derived[Inventory, T]:
    """What `make` returns for the inventory that `settings` name, and for each later content of it."""
    return inventory_of(settings).derived(make)


def _open(file: str | None, database: str | None) -> Reloading[Inventory]:
    if file:
        return ReloadingFile(file, load, reparse=load_aside)
    reader = Reader(Path(database or ""))
    return Reloading(str(database), reader.look, reader.read, _LOOK_SECONDS)
