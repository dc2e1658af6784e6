"""The cache against a world that changes: whatever it answers was true not too long ago, there."""

import pytest
from cached_cloud import BLUE, GREEN, Clock, Cloud, cache, mac, source
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mdmw.errors import NotIdentified, Unavailable
from mdmw.records import Source
from mdmw.resolvers.back_end import PAUSE
from mdmw.resolvers.caching import CacheLimits

LIMITS = CacheLimits(expiration=10, negative=1, idle=2, stale=30, entries=100)
_JUST = 0.01  # the clock moves a little with every look at it

scopes = st.sampled_from([BLUE, GREEN])
places = st.integers(1, 2)
seldom = st.sampled_from([False, False, False, True])


class World(RuleBasedStateMachine):
    """Guests come and go at two addresses of two networks; every guest has a MAC and an id of its own."""

    @initialize(prefetching=st.booleans())
    def begin(self, prefetching):
        self.clock = Clock()
        self.cloud = Cloud()
        self.cache = cache(self.cloud, self.clock, prefetching, LIMITS)
        self.guests = 0
        self.holders = {}
        self.history = {(s, n): [(0.0, None)] for s in (BLUE, GREEN) for n in (1, 2)}
        self.answered = {}

    @rule(scope=scopes, place=places)
    def new_guest(self, scope, place):
        self.gone(scope, place)
        self.guests += 1
        number = 10 + self.guests
        instance = self.cloud.put(number, scope, address=source(place).address)
        self.holders[scope, place] = number, instance
        self.history[scope, place].append((self.clock(), instance))

    @rule(scope=scopes, place=places)
    def gone(self, scope, place):
        if (scope, place) in self.holders:
            self.cloud.remove(self.holders.pop((scope, place))[0])
            self.history[scope, place].append((self.clock(), None))

    @rule(seconds=st.sampled_from([0.01, 0.3, 0.9, 1.5, 2.5, 7.0, 11.0, 35.0]))
    def time_passes(self, seconds):
        self.clock.pass_(seconds)

    @rule(down=seldom)
    def weather(self, down):
        self.cloud.down = down

    @rule(too_many=seldom)
    def size(self, too_many):
        self.cloud.too_many = too_many

    @rule(scope=scopes, place=places, stale=st.booleans())
    def ask(self, scope, place, stale):
        """By address alone: true within the expiration time, or after silence within the idle time."""
        now = self.clock()
        active = now - self.answered.get((scope, place), 0.0) <= LIMITS.idle + _JUST
        window = LIMITS.expiration if active else LIMITS.idle
        failing = self.cloud.down or now - self.last_failure() < PAUSE + _JUST
        if stale and failing:
            window = LIMITS.expiration + LIMITS.stale
        try:
            answer = self.cache.find(source(place, scope), stale=stale)
        except Unavailable:
            assert failing
            return
        if answer.instance is None:
            assert None in self.truths(scope, place, LIMITS.negative)
            return
        assert answer.instance in self.truths(scope, place, window)
        if now - answer.as_of <= LIMITS.expiration:
            self.answered[scope, place] = now

    @rule(scope=scopes, place=places, stale=st.booleans())
    def ask_with_mac(self, scope, place, stale):
        """R-11: by address and MAC, it is the guest itself, always."""
        if (scope, place) in self.holders:
            number, instance = self.holders[scope, place]
            try:
                found = self.cache.find(Source(source(place).address, scope, mac(number)), stale=stale)
            except Unavailable:
                return
            assert found.identified() == instance

    @rule(scope=scopes, place=places)
    def ask_again(self, scope, place):
        """R-11: the truth of now."""
        try:
            found = self.cache.resolve(source(place, scope), fresh=True)
        except NotIdentified:
            found = None
        except Unavailable:
            return
        assert found == self.history[scope, place][-1][1]

    def truths(self, scope, place, window):
        """Everything that was so within the last `window` seconds."""
        began = self.clock() - window - _JUST
        entries = self.history[scope, place]
        ends = [at for at, _ in entries[1:]] + [float("inf")]
        return [instance for (_, instance), end in zip(entries, ends, strict=True) if end >= began]

    def last_failure(self):
        failures = self.cache._back_end._failures.values()
        return max((at for at, _ in failures), default=0.0)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=600, stateful_step_count=40)


def test_the_model_finds_a_cache_without_the_idle_rule():
    world = World()
    world.begin(prefetching=False)
    world.cache._idle = 100.0
    world.new_guest(BLUE, 1)
    world.ask(BLUE, 1, stale=False)
    world.gone(BLUE, 1)
    world.time_passes(2.5)
    with pytest.raises(AssertionError):
        world.ask(BLUE, 1, stale=False)
