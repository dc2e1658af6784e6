"""From one keeper to the next: a keeper gives all that it holds to a new one, over the control socket.

The old keeper goes on until the new one is ready, so that no guest notices.
"""

import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import Any

from mdmw.node import namespaces
from mdmw.node.attachments import Attachment, Attachments
from mdmw.node.channel import MOST_PLACES, Message, to_bind, to_scope
from mdmw.node.control import ControlError, KeeperAbsent, KeeperClient, Session, called
from mdmw.node.listening import Listener, Listeners, PlannedListeners

LOG = logging.getLogger(__name__)


class Handover:
    """What this keeper takes from the keeper before it, and gives to the keeper after it.

    `path` is that of the control socket.
    """

    def __init__(
        self, path: Path, listeners: Listeners, attachments: Attachments, planned: PlannedListeners
    ) -> None:
        self._path = path
        self._listeners = listeners
        self._attachments = attachments
        self._planned = planned
        self._successor: Session | None = None
        self._predecessor: KeeperClient | None = None
        self._connection = contextlib.ExitStack()

    @property
    def has_successor(self) -> bool:
        """Whether a new keeper has taken a copy of all that this one holds."""
        return self._successor is not None

    @property
    def has_predecessor(self) -> bool:
        """Whether an old keeper still serves, because this one is not ready yet."""
        return self._predecessor is not None

    # --- the new keeper -----------------------------------------------------------------

    def take_over(self) -> bool:
        """Take what the keeper that runs holds; False when there is none. Raises `ControlError`."""
        try:
            client = self._connection.enter_context(called(self._path))
        except KeeperAbsent:
            return False
        try:
            for message in client.ask("take-over"):
                self._take(message)
        except OSError as error:
            raise ControlError(f"the listeners of the old keeper cannot be taken over: {error}") from None
        self._predecessor = client
        LOG.info("taken over from another keeper: %d listeners", len(self._listeners))
        return True

    def complete(self) -> bool:
        """Tell the old keeper that this one serves; False when the old keeper has ended without a word."""
        if self._predecessor is None:
            return True
        try:
            self._predecessor.tell("taken-over")
        except ControlError as error:
            LOG.warning("the old keeper has ended before this one told it to: %s", error)
            is_told = False
        else:
            is_told = True
        self._connection.close()
        self._predecessor = None
        return is_told

    def _take(self, message: Message) -> None:
        if message.kind == "socket":
            self._listeners.adopt(_listener(message.descriptors[0], **message.fields))
        elif message.kind == "attached":
            self._attachments.adopt(Attachment(**message.fields, pidfd=message.descriptors[0]))
        else:
            endpoints = {
                (namespace, to_bind(bind)): to_scope(scope)
                for namespace, bind, scope in message.fields["listeners"]
            }
            self._planned.endpoints = {**(self._planned.endpoints or {}), **endpoints}

    # --- the old keeper -----------------------------------------------------------------

    def give(self, session: Session) -> None:
        """Send all that a new keeper needs. This keeper goes on until the new one is ready."""
        self._successor = session
        for listener in self._listeners:
            session.answer("socket", [listener.sock.fileno()], **described(listener))
        for attachment in self._attachments.by_name.values():
            session.answer("attached", [attachment.pidfd], name=attachment.name, pid=attachment.pid)
        if self._planned.endpoints is not None:
            endpoints = [
                [namespace, [bind.address, bind.port, bind.device], [scope.kind, scope.id]]
                for (namespace, bind), scope in self._planned.endpoints.items()
            ]
            for start in range(0, len(endpoints) + 1, MOST_PLACES):
                session.answer("want", listeners=endpoints[start : start + MOST_PLACES], more=True)
        session.answer("done")

    def check_successor(self, session: Session) -> None:
        """Raise `ControlError` unless this caller has taken what this keeper holds."""
        if session is not self._successor:
            raise ControlError("nothing was handed over to this caller")

    def session_ended(self, session: Session) -> None:
        """A caller has closed its end: a new keeper that does so before it is ready has failed."""
        if session is self._successor:
            LOG.warning("the new keeper has ended before it could take over")
            self._successor = None


def described(listener: Listener) -> dict[str, Any]:
    """The fields of a listener in a message of the control socket."""
    bind, scope = listener.bind, listener.scope
    return {
        "namespace": listener.namespace,
        "bind": [bind.address, bind.port, bind.device],
        "scope": [scope.kind, scope.id],
        "owner": listener.owner,
        "since": listener.since,
    }


def _listener(
    descriptor: int, namespace: str, bind: list[Any], scope: list[Any], owner: str, since: float
) -> Listener:
    """The listener that `described` has described; raises OSError, and closes the descriptor then."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise
    try:
        inode = namespaces.socket_inode(sock)
    except OSError:
        sock.close()
        raise
    return Listener(namespace, inode, to_bind(bind), to_scope(scope), owner, sock, since)
