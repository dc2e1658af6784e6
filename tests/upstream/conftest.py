"""Fixtures of the tests of upstreams."""

import exchanging
import pytest


@pytest.fixture
def upstream():
    """Makes upstreams, and closes their kept connections after the test."""
    made = []

    def make(*addresses, **limits):
        made.append(exchanging.upstream(*addresses, **limits))
        return made[-1]

    yield make
    for asked in made:
        exchanging.close_kept(asked)
