"""Fixtures of the tests of resolvers."""

import neutron_rpc_server
import pytest
import rabbit as rabbits
from neutron_api import cloud, neutron

from mdmw.testing.resolvers import WORLD

__all__ = ["cloud", "neutron", "rabbit", "relay"]


@pytest.fixture(scope="session")
def rabbit():
    """One RabbitMQ for all tests."""
    with rabbits.running() as running:
        if running is None:
            pytest.skip("needs rabbitmq-server")
        yield running


@pytest.fixture(scope="session")
def neutron_rpc(rabbit):
    """Neutron's RPC server, which holds the world of the conformance suite."""
    plugin = neutron_rpc_server.Plugin(WORLD)
    with neutron_rpc_server.serving(rabbit.url(), "q-plugin", plugin):
        yield plugin


@pytest.fixture
def relay(rabbit):
    """A way to RabbitMQ that can be cut."""
    made = rabbits.Relay(rabbit.port)
    yield made
    made.close()
