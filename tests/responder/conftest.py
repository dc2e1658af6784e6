"""Fixtures of the responder's tests."""

import pytest
from responder_client import client


@pytest.fixture
def get():
    """A client of a fresh responder."""
    return client()
