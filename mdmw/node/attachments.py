"""Attachments: listeners that stay open as long as a process of somebody else lives (`mdmw-haproxy`).

Each attachment has a file. When a keeper was killed, the next keeper restores attachments from these files.
"""

import contextlib
import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmw.node import channel, namespaces
from mdmw.node.listening import PLAN, Listeners
from mdmw.node.loop import Loop
from mdmw.node.namespaces import Bind
from mdmw.records import Scope

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attachment:
    """`name` is the id of the network or router; `pidfd` becomes readable when the process has ended."""

    name: str
    pid: int
    pidfd: int


class Attachments:
    """All attachments, by name. `directory` has their files."""

    def __init__(self, loop: Loop, listeners: Listeners, directory: Path) -> None:
        self.by_name: dict[str, Attachment] = {}
        self._loop = loop
        self._listeners = listeners
        self._directory = directory
        self._names = namespaces.Names()

    def attach(self, attachment: Attachment, descriptor: int, scope: Scope, binds: Sequence[Bind]) -> None:
        """Listen in the namespace of `descriptor` until the process ends; raises OSError.

        An older attachment of the same name is detached first. This object closes `attachment.pidfd`, also
        when the method raises. After an error nothing of the new attachment is left.
        """
        with _closed_on_error(attachment.pidfd):
            self.detach(attachment.name)
            _check_pidfd(attachment)
            self._record(attachment, scope, binds)
            try:
                self._open(attachment, descriptor, scope, binds)
            except BaseException:
                self._file(attachment.name).unlink(missing_ok=True)
                raise

    def adopt(self, attachment: Attachment) -> None:
        """Take an attachment whose listeners are open already; raises OSError, and closes the pidfd then."""
        with _closed_on_error(attachment.pidfd):
            self._watch(attachment)

    def detach(self, name: str) -> bool:
        """Close the listeners of an attachment and forget it; False when there is none. Raises OSError."""
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
        """Attach again each attachment that has a file, if its process still lives.

        False when an address is still in use by a worker of the keeper that was killed: call again later.
        """
        all_restored = True
        for path in sorted(self._directory.glob("*.json")):
            if path.stem in self.by_name:
                continue
            try:
                self._restore(path)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                    all_restored = False
                    continue
                LOG.warning("%s: not attached again: %s", path.stem, error)
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        for listener in self._listeners:
            if listener.owner != PLAN and listener.owner not in self.by_name:
                self._listeners.close(listener.owner)
        return all_restored

    def _open(self, attachment: Attachment, descriptor: int, scope: Scope, binds: Sequence[Bind]) -> None:
        namespace = self._names.of(namespaces.namespace_inode(descriptor))
        try:
            self._listeners.open_in(descriptor, namespace, binds, scope, attachment.name)
            self._watch(attachment)
        except BaseException:
            self._listeners.close(attachment.name)
            raise

    def _watch(self, attachment: Attachment) -> None:
        self._loop.watch(attachment.pidfd, lambda: self._ended(attachment.name))
        self.by_name[attachment.name] = attachment

    def _ended(self, name: str) -> None:
        try:
            self.detach(name)
        except OSError as error:
            LOG.warning("%s: the file of the attachment cannot be removed: %s", name, error)

    def _restore(self, path: Path) -> None:
        record = json.loads(path.read_text())
        if not _is_record(record):
            raise ValueError("the file is damaged")
        pid, scope = record["pid"], channel.to_scope(record["scope"])
        binds = [channel.to_bind(bind) for bind in record["binds"]]
        attachment = Attachment(path.stem, pid, os.pidfd_open(pid))
        with _closed_on_error(attachment.pidfd):
            if _start_time(pid) != record["began"]:
                raise ValueError("its process has ended")
            if any(listener.owner == path.stem for listener in self._listeners):
                self._watch(attachment)
                return
            descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._open(attachment, descriptor, scope, binds)
            finally:
                os.close(descriptor)

    def _record(self, attachment: Attachment, scope: Scope, binds: Sequence[Bind]) -> None:
        record = {
            "pid": attachment.pid,
            "began": _start_time(attachment.pid),
            "scope": [scope.kind, scope.id],
            "binds": [[bind.address, bind.port, bind.device] for bind in binds],
        }
        path = self._file(attachment.name)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(record))
        temporary.replace(path)

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.json"


@contextlib.contextmanager
def _closed_on_error(descriptor: int) -> Iterator[None]:
    """Close a descriptor when the block raises."""
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise


def _check_pidfd(attachment: Attachment) -> None:
    """Raise ProcessLookupError unless the pidfd is that of the process with this id, which still lives."""
    info = Path(f"/proc/self/fdinfo/{attachment.pidfd}").read_text()
    if f"Pid:\t{attachment.pid}\n" not in info:
        raise ProcessLookupError(f"process {attachment.pid} has ended, or the descriptor is of another")


def _start_time(pid: int) -> int:
    """When a process began, in clock ticks since the host started (proc(5), field 22); raises OSError."""
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
