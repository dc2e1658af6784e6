"""`mdmw inventory import|export`: between a file and a database."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mdmw.errors import Conflict
from mdmw.inventory.file import load, written
from mdmw.inventory.sqlite import KINDS, Reader
from mdmw.inventory.store import Caller, InventoryStore


def add_parser(commands: Any) -> None:
    """`mdmw inventory ACTION`."""
    parser = commands.add_parser(
        "inventory",
        help="put an inventory file into a database, or write one from it",
        description="The inventory of places without Neutron, for inventory_db. Run it as the user that owns "
        "the database, since there are passwords in it.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    import_ = actions.add_parser(
        "import",
        help="make a database say what a file says",
        description="Make a database say what a file says, all at once. The database is made when it is not "
        "there. Status 1: it has an inventory already.",
    )
    import_.add_argument("file", metavar="FILE", help="YAML file")
    _add_db(import_)
    import_.add_argument(
        "--replace", action="store_true", help="what is not in the file is deleted from the database"
    )
    import_.set_defaults(run=_import)
    export = actions.add_parser(
        "export",
        help="print what a database says, as a file",
        description="Print what a database says, as a YAML file, with all passwords and user data.",
    )
    _add_db(export)
    export.set_defaults(run=_export)


def _add_db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--db", metavar="PATH", required=True, help="SQLite database")


def _import(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    inventory = load(Path(arguments.file))
    caller = Caller(f"uid {os.getuid()} with mdmw inventory import")
    try:
        changes = InventoryStore(arguments.db).fill(inventory, caller, replace=arguments.replace)
    except Conflict as error:
        print(f"mdmw: {error}; --replace makes it say what the file says", file=sys.stderr)
        return 1
    counts = ", ".join(f"{kind} {len(getattr(inventory, kind))}" for kind in KINDS)
    print(f"{arguments.db}: {counts}, changes {changes}")
    return 0


def _export(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    print(written(Reader(Path(arguments.db)).read()), end="")
    return 0
