"""One name, one thing: no two public classes of mdmw have the same name."""

import ast
from collections import defaultdict
from pathlib import Path

import mdmw


def test_no_two_public_classes_share_a_name() -> None:
    root = Path(mdmw.__path__[0])
    found = defaultdict(list)
    for path in root.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(root)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}
