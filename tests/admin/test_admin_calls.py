"""Requests as such: paths, methods, queries and bodies, good and bad."""

import json

import pytest
from administered import TENANT
from guest import call, environ
from hypothesis import given
from hypothesis import strategies as st

from mdmw.admin import call as calls
from mdmw.admin.operations import OPERATIONS
from mdmw.admin.policy import OPERATOR, Operator
from mdmw.errors import BadRequest

NETWORKS = "/v1/inventory/networks"
BY_NAME = {operation.name: operation for operation in OPERATIONS}


@pytest.mark.parametrize(
    "target",
    ["/", "/v1", "/v1/", "/v1/networks/", "/v2/networks", "/v1/networks/a/b", "/v1/networks/a%0a", "/%ff"],
)
def test_no_such_path(api, target):
    reply = call(api.app, target=target.replace("%0a", "\n").replace("%ff", "\xff"), **{OPERATOR: TENANT})
    assert reply.status == 404


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_methods_of_each_path(api, operation):
    """405 names those that are; OPTIONS too, and HEAD is GET without a body."""
    path = operation.path.replace("{id}", "x")
    reply, _ = api.ask("PATCH", path)
    assert reply.status == 405
    allowed = reply.value("Allow").split(", ")
    assert operation.method in allowed
    options, nothing = api.ask("OPTIONS", path)
    assert (options.status, nothing, options.value("Allow").split(", ")) == (204, None, allowed)
    assert ("HEAD" in allowed) == ("GET" in allowed)


def test_head(api):
    got, _ = api.ask("GET", NETWORKS)
    head, nothing = api.ask("HEAD", NETWORKS)
    assert (head.status, nothing) == (200, None)
    assert head.value("Content-Length") == got.value("Content-Length")


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("colour=blue", "colour"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "twice"),
        ("limit=%D9%A1", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("marker=", "marker"),
        ("marker=" + "x" * 256, "marker"),
        ("marker=%ff", "UTF-8"),
    ],
)
def test_queries_that_are_refused(api, query, problem):
    reply, said = api.ask("GET", f"{NETWORKS}?{query}")
    assert (reply.status, problem in said["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    "query", ["", "address=10.0.0.1", "network=a", "network=a&router=b&address=10.0.0.1", "fresh=1&network=a"]
)
def test_resolve_needs_a_scope_and_an_address(api, query):
    assert api.ask("GET", f"/v1/resolve?{query}")[0].status == 400


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"all": False},
        {"all": 1},
        {"network": ""},
        {"network": 1},
        {"network": "a", "router": "b"},
        {"x": "y"},
    ],
)
def test_purge_needs_one_of_three(api, document):
    assert api.ask("POST", "/v1/cache:purge", document)[0].status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"id": NaN}',
        b'{"id": "a", "id": "b"}',
        b'{"id": "\\ud800"}',
        b'{"id": "\xff"}',
        b'{"a":' * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)
def test_bodies_that_are_refused(api, body):
    reply, _ = api.ask("POST", NETWORKS, body=body)
    assert reply.status == 400


def test_what_is_wrong_with_a_body_is_said_without_the_body(api):
    """There may be a password in it."""
    _, said = api.ask("POST", NETWORKS, body=b'{"password": "hunter2" x')
    assert "hunter2" not in said["error"]["message"]
    assert "line 1" in said["error"]["message"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=utf-16"]
)
def test_only_json(api, kind):
    assert api.ask("POST", NETWORKS, {}, [("Content-Type", kind)])[0].status == 415


def test_json_with_a_charset(api):
    reply, said = api.ask("POST", NETWORKS, {}, [("Content-Type", "application/json; charset=UTF-8")])
    assert (reply.status, "id" in said["error"]["message"]) == (400, True)


def test_a_body_has_a_limit(api):
    reply, _ = api.ask("POST", NETWORKS, body=b" " * (calls.MAX_BODY + 1))
    assert reply.status == 413


def test_no_body_where_there_is_none(api):
    assert api.ask("POST", "/v1/reload", {})[0].status == 400
    assert api.ask("POST", "/v1/reload")[0].status == 200


def test_without_an_operator_nothing_is_told(api):
    """The loader refuses such a pipeline; this is for those who build their own."""
    reply = call(
        api.app, target="/v1/config", headers=[("X-Roles", "admin"), ("X-Identity-Status", "Confirmed")]
    )
    assert reply.status == 500
    assert b"pipelines" not in reply.body


@given(body=st.binary(max_size=200), kind=st.sampled_from(["application/json", "text/json"]))
def test_any_body_is_read_or_refused(body, kind):
    made = environ("POST", NETWORKS, [("Content-Type", kind)], body)
    read(made, BY_NAME["create_inventory_network"])


@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_read_or_refused(document):
    made = environ("POST", NETWORKS, [("Content-Type", "application/json")], json.dumps(document).encode())
    found = read(made, BY_NAME["create_inventory_network"])
    assert found is None or found.document == document


@given(query=st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_query_is_read_or_refused(query):
    made = environ("GET", "/v1/inventory/audit", QUERY_STRING=query)
    found = read(made, BY_NAME["list_changes"])
    assert found is None or 1 <= found.query["limit"] <= 1000


def read(made, operation):
    """The call, or None when it is refused."""
    try:
        return calls.read_call(made, operation, {}, Operator("ada"), "req-1")
    except BadRequest:
        return None
