"""Fixtures that every folder may use, and what is done once in each process that runs tests."""

import os
import tempfile
from pathlib import Path

import own_host
import pytest
from hypothesis import settings
from peers import peers_in

# Time is measured by the tests that are about time; a busy machine must not fail the others.
settings.register_profile("mdmw", deadline=None)
settings.load_profile("mdmw")


def pytest_configure(config: pytest.Config) -> None:
    """Give this process a /run and a network of its own. A real OpenStack needs those of the machine."""
    if "MDMW_OPENSTACK" not in os.environ:
        own_host.take()
    if not config.getoption("numprocesses", None):  # this process runs tests
        # coverage would slow down the servers that tests start; it measures the processes of pytest only.
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With pytest -n: groups of tests in the order of their files, where the slow folders come first."""
    from groups import Groups

    config.option.loadscopereorder = False
    return Groups(config, log)


@pytest.fixture
def open_path():
    """A short folder, as tmp_path, but one that processes of other users may enter."""
    with tempfile.TemporaryDirectory(prefix="mdmw-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def peers():
    """Makes scripted peers, and closes them after the test."""
    with tempfile.TemporaryDirectory(prefix="mdmw") as directory, peers_in(directory) as made:
        yield made
