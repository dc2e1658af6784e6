"""Old names of modules that have moved, for code of others that still imports the old names."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any


def moved(old: str, new: str) -> Callable[[str], Any]:
    """The `__getattr__` of the module `old` whose content is in the module `new` now.

    Each use of a name gives a DeprecationWarning that says which module to import.
    """

    def attribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(importlib.import_module(new), name)
        warnings.warn(f"{old}.{name} is {new}.{name} now", DeprecationWarning, stacklevel=2)
        return value

    return attribute
