"""Imports that older pages of the documentation showed keep working, and say what to import now."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("mdmw.resolvers.conformance", "ResolverConformance", "mdmw.testing.resolvers"),
        ("mdmw.resolvers.conformance", "WORLD", "mdmw.testing.resolvers"),
        ("mdmw.resolvers.matching", "ROUTER_INTERFACE_OWNERS", "mdmw.resolvers.contract"),
        ("mdmw.resolvers.matching", "choose", "mdmw.resolvers.contract"),
        ("mdmw.resolvers.matching", "Port", "mdmw.resolvers.contract"),
        ("mdmw.resolvers.snapshot", "Snapshot", "mdmw.resolvers.contract"),
    ],
)
def test_an_old_import(old, name, new):
    module = importlib.import_module(old)
    with pytest.warns(DeprecationWarning, match=f"{old}.{name} is {new}.{name} now"):
        found = getattr(module, name)
    assert found is getattr(importlib.import_module(new), name)


def test_the_warning_names_the_line_that_imports():
    code = "from mdmw.resolvers.conformance import ResolverConformance"
    command = [sys.executable, "-W", "always", "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stderr.startswith("<string>:1: DeprecationWarning: mdmw.resolvers.conformance.")


def test_a_name_that_never_was():
    with pytest.raises(AttributeError):
        importlib.import_module("mdmw.resolvers.matching").nothing  # noqa: B018 - it raises
