"""`resolver = chain`: the first answer wins, and away is not the same as absent."""

import pytest
import yaml
from cached_cloud import ChainOf, Clock, Cloud, source
from test_inventory_conformance import as_inventory

from mdmw.errors import ConfigError, Contradiction, NotIdentified, Unavailable
from mdmw.filters.instance_resolve import load_section, make_resolver, section_options
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.caching import CacheLimits, Caching
from mdmw.resolvers.combined import ChainResolver
from mdmw.resolvers.neutron import PortResolver
from mdmw.testing.resolvers import ADA, PROJECT, WORLD
from mdmw.testing.resolvers import BLUE as WORLD_BLUE

FIRST, SECOND = Instance("first", "p", "port"), Instance("second", "p", "port")
ABSENT, AWAY, LIES = NotIdentified("absent"), Unavailable("away", 5), Contradiction("lies")


class Says:
    """A resolver that always says the same."""

    def __init__(self, outcome):
        self.outcome = outcome
        self.fresh = []

    def resolve(self, source, *, fresh=False):
        self.fresh.append(fresh)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([FIRST, SECOND], FIRST),
        ([ABSENT, SECOND], SECOND),
        ([AWAY, SECOND], SECOND),
        ([ABSENT, AWAY, SECOND], SECOND),
        ([ABSENT, ABSENT], NotIdentified),
        ([AWAY, ABSENT], Unavailable),
        ([ABSENT, AWAY], Unavailable),
        ([LIES, SECOND], Contradiction),
        ([ABSENT, LIES, SECOND], Contradiction),
        ([FIRST], FIRST),
    ],
)
def test_which_answer_counts(outcomes, expected):
    """1.6: one that is away may know the source, so that it is not absent."""
    chain = ChainOf(*map(Says, outcomes))
    if isinstance(expected, Instance):
        assert chain.resolve(source(1)) == expected
    else:
        with pytest.raises(expected):
            chain.resolve(source(1))


def test_who_is_away_says_when_to_come_back():
    with pytest.raises(Unavailable) as error:
        ChainOf(Says(AWAY), Says(ABSENT)).resolve(source(1))
    assert error.value.retry_after == 5


def test_fresh_is_handed_on():
    members = Says(ABSENT), Says(SECOND)
    ChainOf(*members).resolve(source(1), fresh=True)
    assert [member.fresh for member in members] == [[True], [True]]


# --- with the cache ---------------------------------------------------------------------------


def test_the_chain_is_prefetched_from_its_first_member():
    first, second = Cloud(), Cloud()
    expected = [first.put(n) for n in range(3)]
    cached = Caching(ChainOf(PortResolver(first), PortResolver(second)), CacheLimits(idle=2.0), clock=Clock())
    assert [cached.resolve(source(n)) for n in range(3)] == expected
    assert (first.queries, second.queries) == ({"all": 1}, {})


def test_who_is_not_in_the_snapshot_may_be_known_to_the_second():
    first, second, clock = Cloud(), Cloud(), Clock()
    expected = second.put(1)
    cached = Caching(ChainOf(PortResolver(first), PortResolver(second)), CacheLimits(idle=2.0), clock=clock)
    for _ in range(3):
        assert cached.resolve(source(1)) == expected
    assert (first.queries, second.queries) == ({"all": 1, "one": 1}, {"one": 1})
    assert cached.resolve(source(1), fresh=True) == expected


def test_the_second_serves_while_the_first_is_away():
    first, second = Cloud(), Cloud()
    first.down = True
    expected = second.put(1)
    cached = Caching(ChainOf(PortResolver(first), PortResolver(second)), CacheLimits(idle=2.0), clock=Clock())
    assert cached.resolve(source(1)) == expected
    with pytest.raises(Unavailable):
        cached.resolve(source(2))


def test_a_first_member_without_snapshots():
    second = Cloud()
    expected = second.put(1)
    cached = Caching(ChainOf(Says(ABSENT), PortResolver(second)), CacheLimits(idle=2.0), clock=Clock())
    assert cached.resolve(source(1)) == expected
    assert second.queries == {"one": 1}


# --- configuration ------------------------------------------------------------------------------


@pytest.fixture
def inventory(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(yaml.safe_dump(as_inventory(WORLD)))
    return {"resolver": "chain", "inventory_file": str(path)}


@pytest.mark.parametrize("members", ["inventory", "inventory, inventory"])
def test_a_section_with_a_chain(inventory, members):
    """The options of the members stand in the section."""
    kind, settings = load_section({}, inventory | {"chain": members})
    assert kind is ChainResolver
    assert settings.inventory_file == inventory["inventory_file"]
    resolver = make_resolver({}, inventory | {"chain": members})
    assert isinstance(resolver, Caching)
    assert resolver.resolve(Source("10.0.0.5", Scope("network", WORLD_BLUE))) == Instance(
        ADA, PROJECT, WORLD.ports[0].id
    )


def test_the_options_of_all_members_join_the_section():
    _, options = section_options({}, {"resolver": "chain", "chain": "neutron, neutron-rpc, inventory"})
    names = [opt.dest for opt in options]
    assert {"chain", "inventory_file", "neutron_timeout", "cache_enabled"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, ["'resolver'", "needs the option 'chain'"]),
        ({"chain": ""}, ["'resolver'", "needs the option 'chain'"]),
        ({"chain": "chain, inventory"}, ["other resolvers than chain"]),
        ({"chain": "guess"}, ["no resolver 'guess'"]),
        ({"chain": "inventory"}, ["'inventory_file'", "required"]),
        ({"chain": "inventory", "inventory_file": "/x", "colour": "x"}, ["unknown option 'colour'"]),
    ],
)
def test_bad_configuration(options, named):
    with pytest.raises(ConfigError) as error:
        make_resolver({}, {"resolver": "chain", **options})
    text = str(error.value)
    assert "\n" not in text
    assert [name for name in named if name not in text] == []
