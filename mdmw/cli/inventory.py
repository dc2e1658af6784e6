"""`mdmw inventory import|export`: copy an inventory between a file and a database."""

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
        help="copy an inventory between a file and a database",
        description="Copy an inventory between a YAML file and the database of the option inventory_db. Run "
        "the command as the user that owns the database, because the database contains passwords.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    import_ = actions.add_parser(
        "import",
        help="copy a file into a database",
        description="Copy an inventory file into a database, in one transaction. The command makes the "
        "database if the database does not exist. Exit status 1: the database already has an inventory.",
    )
    import_.add_argument("file", metavar="FILE", help="inventory file (YAML)")
    _add_db(import_)
    import_.add_argument(
        "--replace",
        action="store_true",
        help="replace the inventory of the database; entries that the file does not have are deleted",
    )
    import_.set_defaults(run=_import)
    export = actions.add_parser(
        "export",
        help="print the inventory of a database as a file",
        description="Print the inventory of a database as a YAML file, with all passwords and user data.",
    )
    _add_db(export)
    export.set_defaults(run=_export)


def _add_db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--db", metavar="PATH", required=True, help="file of the SQLite database")


def _import(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    inventory = load(Path(arguments.file))
    caller = Caller(f"uid {os.getuid()} with mdmw inventory import")
    try:
        changes = InventoryStore(arguments.db).fill(inventory, caller, replace=arguments.replace)
    except Conflict as error:
        print(f"mdmw: {error}; --replace replaces the inventory of the database", file=sys.stderr)
        return 1
    counts = ", ".join(f"{kind} {len(getattr(inventory, kind))}" for kind in KINDS)
    print(f"{arguments.db}: {counts}, changes {changes}")
    return 0


def _export(arguments: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    print(written(Reader(Path(arguments.db)).read()), end="")
    return 0
