"""Imports that older pages of the documentation showed keep working, and say what to import now."""

import importlib
import subprocess
import sys
import warnings

import pytest


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("mdmw.boundary.base", "Either", "mdmw.boundary.stage"),
        ("mdmw.boundary.base", "Filter", "mdmw.boundary.stage"),
        ("mdmw.boundary.base", "Terminal", "mdmw.boundary.stage"),
        ("mdmw.filters.listener", "netns_cookie", "mdmw.boundary.peer"),
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


#: Names that the documentation showed, and that are still in their old place.
STAYED = {
    "mdmw.admin.operations": ["OPERATIONS"],
    "mdmw.errors": ["BadRequest", "ConfigError", "Unavailable"],
    "mdmw.filters.agent_forward": ["AgentForward"],
    "mdmw.filters.hmac_sign": ["HmacSign"],
    "mdmw.filters.hmac_verify": ["HmacVerify"],
    "mdmw.filters.instance_resolve": ["InstanceResolve"],
    "mdmw.filters.nova_forward": ["NovaForward"],
    "mdmw.filters.source_identify": ["Place", "SourceIdentify"],
    "mdmw.records": ["Instance", "SOURCE", "Scope", "Source", "normalise_address"],
    "mdmw.resolvers.contract": ["Resolver"],
    "mdmw.resolvers.inventory": ["InventoryResolver"],
    "mdmw.responder.app": ["app_factory"],
    "mdmw.signing": ["Signer"],
    "mdmw.upstream.address": ["parse_address"],
    "mdmw.upstream.exchange": ["Limits", "Upstream"],
    "mdmw.upstream.tls": ["client_context"],
    "mdmw.wire": ["strip"],
    "mdmw.wsgi.pipelines": ["load"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in STAYED for name in STAYED[module]])
def test_an_import_that_stayed(module, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hasattr(importlib.import_module(module), name)


def test_the_warning_names_the_line_that_imports():
    code = "from mdmw.resolvers.conformance import ResolverConformance"
    command = [sys.executable, "-W", "always", "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stderr.startswith("<string>:1: DeprecationWarning: mdmw.resolvers.conformance.")


def test_a_name_that_never_was():
    with pytest.raises(AttributeError):
        importlib.import_module("mdmw.resolvers.matching").nothing  # noqa: B018 - it raises
