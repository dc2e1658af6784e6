"""The shape of the package: what a stranger may rely on when reading."""

from pathlib import Path

import mdmw

PACKAGE = Path(mdmw.__file__).parent


def test_the_credentials_of_a_peer_are_read_in_one_place() -> None:
    """SO_PEERCRED is named in mdmw.identity alone."""
    readers = [path for path in PACKAGE.rglob("*.py") if "socket.SO_PEERCRED" in path.read_text()]
    assert [str(path.relative_to(PACKAGE)) for path in readers] == ["identity.py"]


def test_files_are_locked_in_one_place() -> None:
    """flock is called in mdmw.locking alone."""
    lockers = [path for path in PACKAGE.rglob("*.py") if "fcntl.flock(" in path.read_text()]
    assert [str(path.relative_to(PACKAGE)) for path in lockers] == ["locking.py"]


def test_netlink_is_spoken_in_one_place() -> None:
    """Only mdmw.netlink opens such a socket; mdmw.node.apply has pyroute2."""
    speakers = [path for path in PACKAGE.rglob("*.py") if "socket.AF_NETLINK" in path.read_text()]
    assert [str(path.relative_to(PACKAGE)) for path in speakers] == ["netlink.py"]
