"""One healthy node for all tests of the doctor."""

from collections.abc import Iterator

import pytest
from site_of_doctor import Node, healthy


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """Whoever breaks it heals it again."""
    with healthy() as made:
        yield made
