"""Parses a changed inventory file in a process of its own, so that the threads of a server run on.

Parsing 20,000 instances takes some seconds, and most of this time is spent in calls that do not let
another thread run. The process sends the checked values back in small pieces.
"""

import gc
import logging
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdmw.errors import ConfigError
from mdmw.inventory.file import load
from mdmw.inventory.values import Inventory
from mdmw.reloading import with_rests

LOG = logging.getLogger(__name__)

# Bytes. A smaller file is parsed sooner than a process starts, in less than a switch interval.
_SMALL = 64 * 1024
_PIECE = 50  # entries that are sent together; unpickling them takes less than 1 ms
_SILENCE = 60.0  # seconds without a piece, after which the process is given up
_NICENESS = 10  # guests come first


def load_aside(path: Path) -> Inventory:
    """Load an inventory file, in another process unless the file is small; raises `ConfigError`.

    Where no process can be started, this thread parses the file, and a warning is logged.
    """
    if _size(path) <= _SMALL:
        return load(path)
    try:
        return _load_in_process(path)
    except OSError as error:
        LOG.warning("%s is parsed in this process, which slows requests down: %s", path, error)
        return load(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _load_in_process(path: Path) -> Inventory:
    """Raises `ConfigError`, and OSError when the process cannot start, ends early or is silent."""
    # A socket and not a pipe: gevent can wait for it.
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rb") as pieces:
        ours.settimeout(_SILENCE)
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - no part of it comes from outside
                [_python(), "-P", "-m", __name__, str(path)],
                stdin=subprocess.DEVNULL,
                stdout=theirs.fileno(),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            return _received(pieces)
        finally:
            ours.close()
            process.kill()
            process.wait()


def _received(pieces: Any) -> Inventory:
    found: dict[str, list[Any]] = {"networks": [], "routers": [], "instances": []}
    for kind, content in with_rests(_each(pieces)):
        if kind == "error":
            raise ConfigError(content)
        found[kind] += content
    return Inventory(**{kind: tuple(entries) for kind, entries in found.items()})


def _each(pieces: Any) -> Iterator[tuple[str, Any]]:
    while True:
        try:
            piece = pickle.load(pieces)  # noqa: S301 - from a child that runs this code
        except (EOFError, pickle.UnpicklingError):
            raise OSError("the process that parses it ended early") from None
        if piece is None:
            return
        yield piece


def _python() -> str:
    """The interpreter; in a server that embeds Python `sys.executable` may be the server."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    return str(Path(sys.prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"))


# --- in the process ---------------------------------------------------------------------


def main(path: str) -> None:
    """Parse a file and write the pieces to standard output."""
    os.nice(_NICENESS)
    os.set_blocking(1, True)  # sockets of gevent never block
    gc.disable()
    with open(1, "wb") as output:
        try:
            inventory = load(Path(path))
        except ConfigError as error:
            pickle.dump(("error", str(error)), output)
        else:
            for kind in ("networks", "routers", "instances"):
                entries = getattr(inventory, kind)
                for start in range(0, len(entries), _PIECE):
                    pickle.dump((kind, entries[start : start + _PIECE]), output, pickle.HIGHEST_PROTOCOL)
        pickle.dump(None, output)


if __name__ == "__main__":
    main(sys.argv[1])
