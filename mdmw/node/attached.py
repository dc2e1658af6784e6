"""Attachments: listeners that are there as long as a process of somebody else is (`mdmw-haproxy`).

Each has a file, so that a new keeper finds it when the old one was killed.
"""

import errno
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.node import channel, namespaces
from mdmw.node.listeners import PLAN, Listeners
from mdmw.node.loop import Loop
from mdmw.node.namespaces import Bind
from mdmw.records import Scope

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attachment:
    """`name` is the id of the network or router; `pidfd` is readable once the process has ended."""

    name: str
    pid: int
    pidfd: int


class Attachments:
    """All of them, by name; `directory` has their files."""

    def __init__(self, loop: Loop, listeners: Listeners, directory: Path) -> None:
        self.by_name: dict[str, Attachment] = {}
        self._loop = loop
        self._listeners = listeners
        self._directory = directory
        self._names = namespaces.Names()

    def attach(self, attachment: Attachment, descriptor: int, scope: Scope, binds: Sequence[Bind]) -> None:
        """Listen in the namespace of `descriptor`, in the place of an older one of that name; raises OSError.

        The `pidfd` is ours from now on, also when this fails.
        """
        self.detach(attachment.name)
        try:
            _must_be_its_pidfd(attachment)
            namespace = self._names.of(namespaces.namespace_inode(descriptor))
            self._listeners.open_in(descriptor, namespace, binds, scope, attachment.name)
        except OSError:
            os.close(attachment.pidfd)
            raise
        self.adopt(attachment)
        self._record(attachment, scope, binds)

    def adopt(self, attachment: Attachment) -> None:
        """Take one whose listeners are open already."""
        self.by_name[attachment.name] = attachment
        self._loop.watch(attachment.pidfd, lambda: self._ended(attachment.name))

    def _ended(self, name: str) -> None:
        self.detach(name)

    def detach(self, name: str) -> bool:
        """Close its listeners; False when there is none of that name."""
        attachment = self.by_name.pop(name, None)
        if attachment is None:
            return False
        self._loop.forget(attachment.pidfd)
        os.close(attachment.pidfd)
        self._listeners.close(name)
        self._file(name).unlink(missing_ok=True)
        LOG.info("%s: detached", name)
        return True

    def restore(self) -> bool:
        """Attach again what the files tell of, as far as its processes are still there.

        False when an address is still in use, by workers of the keeper that was killed.
        """
        done = True
        for path in sorted(self._directory.glob("*.json")):
            if path.stem in self.by_name:
                continue
            try:
                self._restore(path)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                    done = False
                    continue
                LOG.warning("%s: not attached again: %s", path.stem, error)
                path.unlink(missing_ok=True)
        for listener in self._listeners:
            if listener.owner != PLAN and listener.owner not in self.by_name:
                self._listeners.close(listener.owner)
        return done

    def _restore(self, path: Path) -> None:
        record = json.loads(path.read_text())
        if not _is_record(record):
            raise ValueError("the file is damaged")
        pidfd = os.pidfd_open(record["pid"])
        attachment = Attachment(path.stem, record["pid"], pidfd)
        if _began(record["pid"]) != record["began"]:
            os.close(pidfd)
            raise ValueError("its process has ended")
        if any(listener.owner == path.stem for listener in self._listeners):
            self.adopt(attachment)
            return
        descriptor = os.open(f"/proc/{record['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            binds = [channel.to_bind(bind) for bind in record["binds"]]
            self.attach(attachment, descriptor, channel.to_scope(record["scope"]), binds)
        finally:
            os.close(descriptor)

    def _record(self, attachment: Attachment, scope: Scope, binds: Sequence[Bind]) -> None:
        record = {
            "pid": attachment.pid,
            "began": _began(attachment.pid),
            "scope": [scope.kind, scope.id],
            "binds": [[bind.address, bind.port, bind.device] for bind in binds],
        }
        path = self._file(attachment.name)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(record))
        temporary.replace(path)

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def _must_be_its_pidfd(attachment: Attachment) -> None:
    """Raises OSError."""
    info = Path(f"/proc/self/fdinfo/{attachment.pidfd}").read_text()
    if f"Pid:\t{attachment.pid}\n" not in info:
        raise ProcessLookupError(f"process {attachment.pid} has ended, or the descriptor is of another")


def _began(pid: int) -> int:
    """When a process began, in the kernel's ticks; raises OSError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"pid", "began", "scope", "binds"}
        and channel.natural(value["pid"])
        and channel.natural(value["began"])
        and channel.scope(value["scope"])
        and channel.list_of(channel.bind, 4)(value["binds"])
    )
