"""Fixtures that every folder may use, and what is done once in each process that runs tests."""

import os
import tempfile

import own_host
import pytest
from hypothesis import settings
from peers import peers_in

# Time is measured by the tests that are about time; a busy machine must not fail the others.
settings.register_profile("mdmw", deadline=None)
settings.load_profile("mdmw")

# coverage measures the processes of pytest. It would slow down the servers that tests start.
os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


def pytest_configure(config: pytest.Config) -> None:
    """Give this process a /run and a network of its own. A real OpenStack needs those of the machine."""
    if "MDMW_OPENSTACK" not in os.environ:
        own_host.take()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With pytest -n: groups of tests in the order of their files, where the slow folders come first."""
    from groups import Groups

    config.option.loadscopereorder = False
    return Groups(config, log)


@pytest.fixture
def peers():
    """Makes scripted peers, and closes them after the test."""
    with tempfile.TemporaryDirectory(prefix="mdmw") as directory, peers_in(directory) as made:
        yield made
