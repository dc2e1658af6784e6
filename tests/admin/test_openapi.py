"""The OpenAPI document: it is one, and what it says of the API is true, as far as schemathesis finds."""

from pathlib import Path

import pytest
import schemathesis
from administered import Api
from guest import Seen, call
from hypothesis import HealthCheck, settings
from keystone import Keystone
from peers import peers_in
from schemathesis.specs.openapi.checks import positive_data_acceptance

from mdmw.admin import openapi
from mdmw.admin.authtoken import filter_factory
from mdmw.admin.operations import OPERATIONS
from mdmw.filters import instance_resolve, introspect
from mdmw.options import PIPELINE
from mdmw.records import SOURCE, Scope, Source

INVENTORY = Path(__file__).parents[2] / "etc" / "inventory.yaml"
BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"

# What a document must be like beyond its schema is in doc/inventory.rst: a good one by the schema may
# still be refused.
EXCLUDED = [positive_data_acceptance]


class Served:
    """The application under test, which schemathesis wants before there is one."""

    app = None

    def __call__(self, environ, start_response):
        return self.app(environ, start_response)


served = Served()
described = schemathesis.openapi.from_dict(
    openapi.document(),
    config=schemathesis.Config.from_dict(
        {"checks": {"missing_required_header": {"expected-statuses": [401, 428]}}}  # 428: RFC 6585, 3
    ),
)
described.app = served


@pytest.fixture(scope="module", autouse=True)
def app(tmp_path_factory):
    """The API behind authtoken and a small Keystone; there is a network, and this process serves guests."""
    folder = tmp_path_factory.mktemp("admin")
    serving = introspect.filter_factory({PIPELINE: "agent"}, introspect_dir=str(folder / "processes"))
    serving = serving(instance_resolve.filter_factory({}, inventory_file=str(INVENTORY))(Seen()))
    call(serving, **{SOURCE: Source("10.0.0.5", Scope("network", BLUE))})
    made = Api(inventory_db=folder / "inventory.sqlite", introspect_dir=folder / "processes")
    made.ask("POST", "/v1/inventory/networks", {"id": BLUE, "name": "blue"})
    with peers_in(str(folder)) as peers:
        keystone = Keystone()
        keystone.serve(peers)
        keystone.issue("good", "admin")
        served.app = filter_factory({}, config_file=keystone.conf(folder / "admin.conf"))(made.app)
        yield served
    serving.introspection.close()


@described.auth()
class Operator:
    """Gives requests a good token, save those that are to lack one."""

    def get(self, case, context):
        return "good"

    def set(self, case, data, context):
        case.headers["X-Auth-Token"] = data


@described.parametrize()
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_the_api_is_what_the_document_says(case):
    """Statuses, bodies, content types, methods and tokens; and never a 500."""
    case.call_and_validate(excluded_checks=EXCLUDED)


@described.parametrize()
@settings(max_examples=4, suppress_health_check=list(HealthCheck))
def test_the_same_where_there_is_something(case):
    """Random ids are those of nothing."""
    if "id" in case.path_parameters:
        case.path_parameters["id"] = BLUE
    if "If-Match" in case.headers:
        case.headers["If-Match"] = "*"
    if case.query.get("network"):
        case.query = {"network": BLUE, "address": "10.0.0.5"}
    case.call_and_validate(excluded_checks=EXCLUDED)


def test_every_operation_is_in_it():
    document = openapi.document()
    found = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert found == {(operation.method, operation.path) for operation in OPERATIONS}
