"""A real OpenStack, guests in it, and each agent behind each proxy."""

import os

import pytest
from cloud import agents, proxies
from cloud.cloud import running
from cloud.guests import ask
from cloud.state import VARIABLE

# These tests run when they are asked for (make test-openstack), not with all others.
collect_ignore_glob = [] if VARIABLE in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def cloud():
    """Everything but agents and proxies; it ends with the session."""
    with running() as made:
        yield made


@pytest.fixture(scope="session", params=agents.AGENTS)
def agent(request):
    """The name of an agent; `proxy` starts it."""
    return request.param


@pytest.fixture(scope="session", params=proxies.PROXIES)
def proxy(cloud, agent, request):
    """The name of the proxy that is running in all namespaces, in front of `agent`, which runs too."""
    believed = request.param != proxies.HAPROXY and agent != agents.NEUTRON
    with agents.running(cloud, agent, trust_client_mac=believed), proxies.running(cloud, request.param):
        yield request.param


@pytest.fixture(params=["network", "router"])
def way(request):
    """By which namespace guests reach the metadata address."""
    return request.param


@pytest.fixture
def as_guest(cloud, proxy, way):
    """Asks as an instance, by name: `cloud.guests.ask` without the namespace."""

    def call(name, path, **options):
        take = cloud.topology.take_network_path if way == "network" else cloud.topology.take_router_path
        take(name)
        return ask(cloud.topology.guest(name), path, **options)

    return call
