"""Fixtures of the tests of resolvers."""

import pytest
import rabbit as rabbits
from neutron_api import cloud, neutron

__all__ = ["cloud", "neutron", "rabbit", "relay"]


@pytest.fixture(scope="session")
def rabbit():
    """One RabbitMQ for all tests."""
    with rabbits.running() as running:
        if running is None:
            pytest.skip("needs rabbitmq-server")
        yield running


@pytest.fixture
def relay(rabbit):
    """A way to RabbitMQ that can be cut."""
    made = rabbits.Relay(rabbit.port)
    yield made
    made.close()
