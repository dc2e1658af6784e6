"""Directories, derived from the leaves below them (E-2)."""

from collections.abc import Iterable, Mapping


def listings(leaves: Iterable[str], labels: Mapping[str, str]) -> dict[str, list[str]]:
    """The names in each directory above these paths, in bytewise order; "" is the top.

    A directory shows as its name and a `/`, or as its label if it has one.
    """
    entries: dict[str, dict[str, str]] = {"": {}}
    for leaf in leaves:
        parent, _, name = leaf.rpartition("/")
        entries.setdefault(parent, {})[name] = name
        while parent:
            directory = parent
            parent, _, name = directory.rpartition("/")
            entries.setdefault(parent, {})[name] = labels.get(directory, f"{name}/")
    return {
        directory: [names[name] for name in sorted(names, key=str.encode)]
        for directory, names in entries.items()
    }
