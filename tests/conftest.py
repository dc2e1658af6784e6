"""Fixtures that every folder may use."""

import tempfile

import pytest
from hypothesis import settings
from peers import peers_in

# Time is measured by the tests that are about time; a busy machine must not fail the others.
settings.register_profile("mdmw", deadline=None)
settings.load_profile("mdmw")


@pytest.fixture(autouse=True)
def changed_files_are_waited_for(monkeypatch):
    """On a busy machine it may take longer than the grace of a request to read a small file again."""
    monkeypatch.setattr("mdmw.reloading._GRACE", 20.0)


@pytest.fixture
def peers():
    """Makes scripted peers, and closes them after the test."""
    with tempfile.TemporaryDirectory(prefix="mdmw") as directory, peers_in(directory) as made:
        yield made
