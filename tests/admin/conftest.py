"""Fixtures of the tests of the admin API."""

import pytest
from administered import Api


@pytest.fixture
def api(tmp_path):
    """One with an inventory that can be changed, and nobody that serves."""
    return Api(
        inventory_db=tmp_path / "inventory.sqlite",
        introspect_dir=tmp_path / "processes",
        node_status_file=tmp_path / "node-status.json",
    )
