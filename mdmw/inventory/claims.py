"""What a change of one resource can conflict with, found in the database by keys.

Each resource has keys in the table `claims`: keys that only one resource may have (addresses, MACs, ids of
ports), and keys of the networks and subnets that the resource uses. A change is checked against the
resources that share a key with the changed resource, so that its cost does not grow with the inventory.
"""

import ipaddress
import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from mdmw.inventory.entries import Entry
from mdmw.inventory.sqlite import CLAIMS_TABLE, Contents, Kind, entry_of
from mdmw.inventory.values import Guest, Inventory, IPNetwork, Network, Router

_LAST = 2**63 - 1  # position of a new resource

#: The network of each subnet, by the id of the subnet.
_Homes = Mapping[str, Network]


def affected(database: sqlite3.Connection, kind: Kind, id: str, new: Entry | None) -> Inventory:
    """The part of the inventory that a change affects, with `new` in place of the resource `id`.

    This part is right if and only if the whole inventory is right after the change. `new` is None when
    the resource is deleted. Raises `ConfigError` when another program wrote a wrong document.
    """
    part = _Part(database, kind, id, new)
    if kind == "networks":
        part.add_users(id, new if isinstance(new, Network) else None)
    part.add_networks()
    part.add_conflicting()
    part.add_networks()
    return part.inventory()


def write_claims(database: sqlite3.Connection, kind: Kind, id: str, new: Entry | None) -> None:
    """Bring the keys up to date with a change that is written already; `new` is None after a deletion."""
    database.execute("DELETE FROM claims WHERE kind = ? AND id = ?", (kind, id))
    if new is None:
        return
    part = _Part(database, kind, id, new)
    if isinstance(new, Network):  # the gateway of a subnet is the address of routers that have no other
        part.add_rows(_with_keys(database, [f"uses-subnet:{subnet.id}" for subnet in new.subnets]))
    part.add_networks()
    for router in part.inventory().routers:
        database.execute("DELETE FROM claims WHERE kind = 'routers' AND id = ?", (router.id,))
    entries: list[Entry] = [new, *part.inventory().routers]
    _write(database, entries, part.homes())


def write_all_claims(database: sqlite3.Connection, inventory: Inventory) -> None:
    """Replace all keys by those of this inventory."""
    database.execute("DELETE FROM claims")
    entries: list[Entry] = [*inventory.networks, *inventory.routers, *inventory.instances]
    _write(database, entries, _homes_of(inventory.networks))


def add_table(database: sqlite3.Connection) -> None:
    """Turn a database of layout 1 into one of layout 2; raises `ConfigError` for a wrong inventory."""
    inventory = Contents().read(database)
    for statement in CLAIMS_TABLE:
        database.execute(statement)
    write_all_claims(database, inventory)


class _Part:
    """A part of the inventory: a resource as it will be after a change, and others from the database."""

    def __init__(self, database: sqlite3.Connection, kind: Kind, id: str, new: Entry | None) -> None:
        self._database = database
        self._changed = (kind, id)
        row = _row(database, kind, id)
        self._old = entry_of(row) if row and kind == "networks" else None
        self._entries: dict[tuple[str, str], tuple[int, Entry]] = {}
        if new is not None:
            self._entries[self._changed] = (row["position"] if row else _LAST, new)

    def inventory(self) -> Inventory:
        """The resources of this part, in the order of the database."""
        entries = self._in_order()
        return Inventory(
            tuple(entry for entry in entries if isinstance(entry, Network)),
            tuple(entry for entry in entries if isinstance(entry, Router)),
            tuple(entry for entry in entries if isinstance(entry, Guest)),
        )

    def homes(self) -> _Homes:
        """The network of each subnet in this part."""
        return _homes_of(self.inventory().networks)

    def add_rows(self, rows: Iterable[sqlite3.Row]) -> None:
        """Add resources; the old form of the changed one is left out."""
        for row in rows:
            key = (row["kind"], row["id"])
            if key != self._changed and key not in self._entries:
                self._entries[key] = (row["position"], entry_of(row))

    def add_users(self, id: str, new: Network | None) -> None:
        """Add the routers on the subnets of a changed network, and one instance that loses its subnet."""
        networks = [network for network in (self._old, new) if isinstance(network, Network)]
        subnets = {subnet.id for network in networks for subnet in network.subnets}
        self.add_rows(_with_keys(self._database, [f"uses-subnet:{subnet}" for subnet in sorted(subnets)]))
        users = "SELECT id FROM claims WHERE key = ? AND kind = 'instances' LIMIT 1"
        lost = [user for (user,) in self._database.execute(users, (f"uses-network:{id}",))]
        if new is not None:
            lost = self._outside(id, [subnet.cidr for subnet in new.subnets]) if lost else []
        for instance in lost:
            self.add_rows(_rows(self._database, "instances", instance))

    def add_conflicting(self) -> None:
        """Add the resources with a key that only one may have, and that a resource of this part has."""
        homes = self.homes()
        for entry in self._in_order():
            self.add_rows(_with_keys(self._database, list(_unique_keys(entry, homes))))

    def add_networks(self) -> None:
        """Add the networks that the other resources of this part use."""
        for entry in self._in_order():
            if isinstance(entry, Guest):
                for port in entry.ports:
                    self.add_rows(_rows(self._database, "networks", port.network_id))
            elif isinstance(entry, Router):
                keys = [f"subnet:{interface.subnet_id}" for interface in entry.interfaces]
                self.add_rows(_with_keys(self._database, keys))

    def _in_order(self) -> list[Entry]:
        return [entry for _, entry in sorted(self._entries.values(), key=lambda found: found[0])]

    def _outside(self, network_id: str, cidrs: list[IPNetwork]) -> list[str]:
        """The first instance with an address on the network that is in none of `cidrs`."""
        old = [subnet.cidr for subnet in self._old.subnets] if isinstance(self._old, Network) else []
        if set(old) <= set(cidrs):
            return []
        prefix = f"address:{network_id}:"
        rows = self._database.execute(
            "SELECT key, id FROM claims WHERE key > ? AND key < ? AND kind = 'instances'",
            (prefix, prefix[:-1] + ";"),
        )
        for key, id_ in rows:
            ip = ipaddress.ip_address(key.removeprefix(prefix))
            if not any(ip in cidr for cidr in cidrs):
                return [id_]
        return []


# --- keys -------------------------------------------------------------------------------


def _unique_keys(entry: Entry, homes: _Homes) -> Iterator[str]:
    """The keys that no other resource may have."""
    if isinstance(entry, Network):
        if entry.bridge:
            yield f"bridge:{entry.bridge}"
        for subnet in entry.subnets:
            yield f"subnet:{subnet.id}"
            if subnet.dhcp_address:
                yield f"address:{entry.id}:{subnet.dhcp_address}"
    elif isinstance(entry, Router):
        for interface in entry.interfaces:
            if network := homes.get(interface.subnet_id):
                gateways = {subnet.id: subnet.gateway_ip for subnet in network.subnets}
                if address := interface.address or gateways[interface.subnet_id]:
                    yield f"address:{network.id}:{address}"
    else:
        for port in entry.ports:
            yield f"port:{port.id}"
            yield f"mac:{port.network_id}:{port.mac}"
            for address in port.addresses:
                yield f"address:{port.network_id}:{address}"


def _use_keys(entry: Entry) -> Iterator[str]:
    """The keys of what the resource needs."""
    if isinstance(entry, Router):
        for interface in entry.interfaces:
            yield f"uses-subnet:{interface.subnet_id}"
    elif isinstance(entry, Guest):
        for port in entry.ports:
            yield f"uses-network:{port.network_id}"


def _homes_of(networks: Iterable[Network]) -> _Homes:
    return {subnet.id: network for network in networks for subnet in network.subnets}


# --- the database -----------------------------------------------------------------------


def _write(database: sqlite3.Connection, entries: Iterable[Entry], homes: _Homes) -> None:
    database.executemany(
        "INSERT OR IGNORE INTO claims VALUES (?, ?, ?)",
        (
            (key, _kind_of(entry), entry.id)
            for entry in entries
            for key in (*_unique_keys(entry, homes), *_use_keys(entry))
        ),
    )


def _kind_of(entry: Entry) -> Kind:
    if isinstance(entry, Network):
        return "networks"
    return "routers" if isinstance(entry, Router) else "instances"


def _with_keys(database: sqlite3.Connection, keys: Iterable[str]) -> Iterator[sqlite3.Row]:
    """The resources that have one of these keys."""
    for key in keys:
        yield from database.execute(
            "SELECT resources.* FROM claims JOIN resources USING (kind, id) WHERE key = ?", (key,)
        )


def _rows(database: sqlite3.Connection, kind: Kind, id: str) -> list[sqlite3.Row]:
    return database.execute("SELECT * FROM resources WHERE kind = ? AND id = ?", (kind, id)).fetchall()


def _row(database: sqlite3.Connection, kind: Kind, id: str) -> sqlite3.Row | None:
    return next(iter(_rows(database, kind, id)), None)
