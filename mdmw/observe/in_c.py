"""What is done for every request, in C: `IN_C`, or None where no compiler was.

Each of its classes stands in a module of this package in Python too, with the words that explain it, and
takes its place there; `tests/observe/test_in_c.py` holds the two to the same. MDMW_NO_EXTENSIONS in the
environment turns the C off.
"""

import os
from contextlib import suppress
from importlib import import_module
from types import ModuleType

IN_C: ModuleType | None = None
if not os.environ.get("MDMW_NO_EXTENSIONS"):
    with suppress(ImportError):
        IN_C = import_module("mdmw.observe._in_c")
        os.register_at_fork(after_in_child=IN_C.forget_ids)
