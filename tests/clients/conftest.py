"""Fixtures of the tests with real clients."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def as_root():
    """Namespaces need root and iproute2; without them the test is skipped, and counted."""
    missing = [program for program in ("ip", "nft", "curl") if not shutil.which(program)]
    if os.geteuid() or missing:
        pytest.skip(f"needs root, ip, nft and curl; missing: {', '.join(missing) or 'root'}")
