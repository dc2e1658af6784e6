"""Nothing but the marker of the tests of the servers, some of which hold mdmw-node to the same."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "configurations(name): which of the servers' configurations")
