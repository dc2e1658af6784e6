"""instance-resolve: which instance is that, by whatever resolver is named (R-6, spec 2)."""

import pytest
from guest import Seen, call

from mdmw.errors import BadRequest, ConfigError, NotIdentified, Unavailable
from mdmw.filters.instance_resolve import Resolving, filter_factory
from mdmw.records import INSTANCE, SOURCE, Instance, Scope, Source

NETWORK = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
SOURCED = {SOURCE: Source("10.0.0.5", Scope("network", NETWORK))}
FOUND = Instance("instance", "project", "port")


class Resolver:
    def __init__(self, outcome):
        self.outcome, self.asked = outcome, []

    def resolve(self, source, *, fresh=False):
        self.asked.append(source)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_the_record_is_written():
    seen, resolver = Seen(), Resolver(FOUND)
    assert call(Resolving(resolver)(seen), **SOURCED).status == 200
    assert seen.last[INSTANCE] == FOUND
    assert resolver.asked == [SOURCED[SOURCE]]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotIdentified("x"), 404),
        (BadRequest("x"), 400),
        (Unavailable("x"), 503),
        (ConnectionError("x"), 500),
        (KeyError(NETWORK), 500),
    ],
)
def test_what_a_resolver_raises(error, status):
    """1.6, 2.3: transient faults are never 404."""
    seen = Seen()
    reply = call(Resolving(Resolver(error))(seen), **SOURCED)
    assert reply.status == status
    assert seen.environs == []
    assert NETWORK.encode() not in reply.body


def test_an_instance_that_is_proven_is_not_resolved_again():
    """hmac-verify knew it already."""
    seen, resolver = Seen(), Resolver(NotIdentified("x"))
    assert call(Resolving(resolver)(seen), **{INSTANCE: FOUND}).status == 200
    assert resolver.asked == []


def test_without_a_source():
    assert call(Resolving(Resolver(FOUND))(Seen())).status == 500


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"resolver": "guess"}, ["'resolver'", "'guess'", "mdmw.resolvers"]),
        ({"resolver": ""}, ["inventory_file"]),
        ({}, ["'inventory_file'", "required"]),
        ({"inventory_file": "/no/inventory"}, ["/no/inventory"]),
        ({"inventory_file": "/x", "colour": "x"}, ["unknown option 'colour'", "inventory_file"]),
    ],
)
def test_bad_configuration(options, named):
    with pytest.raises(ConfigError) as error:
        filter_factory({}, **options)
    text = str(error.value)
    assert "\n" not in text
    assert [name for name in named if name not in text] == []
