"""The unix socket of the agent: owner, mode and backlog are right before anybody can connect (spec 5.1)."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from mdmw.cli.privileges import Ids
from mdmw.errors import ConfigError

#: What `metadata_proxy_socket_mode` may be, beside `DEDUCE`. To connect one needs permission to write.
MODES = {"user": 0o600, "group": 0o660, "all": 0o666}
DEDUCE = "deduce"

_DIRECTORY_MODE = 0o755
_NOBODY_ELSE = 0o177


def mode_of(setting: str, user: str, group: str, proxy: Ids, agent: Ids) -> int:
    """The permissions that `metadata_proxy_socket_mode` stands for.

    `user` and `group` are those of the proxies as configured, `proxy` their
    numbers; deduced is the least that lets them in, whoever owns the socket.
    """
    if setting != DEDUCE:
        return MODES[setting]
    if not user or proxy.uid in (0, agent.uid):
        return MODES["user"]
    if not group or proxy.gid == agent.gid:
        return MODES["group"]
    return MODES["all"]


class AgentSocket:
    """Listens at `path`, in the place of a socket that is there; `sock` is for the server.

    The directory is made if need be. The owner changes only if this is root.
    Raises `ConfigError`.
    """

    def __init__(self, path: str, mode: int, owner: Ids, backlog: int) -> None:
        self._path = Path(path)
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            _make_directory(self._path.parent)
            _make_room(self._path)
            self._bind()
            if os.geteuid() == 0:
                os.chown(self._path, owner.uid, owner.gid)
            self._path.chmod(mode)
            self.sock.listen(backlog)
            self._inode = self._path.stat().st_ino
        except OSError as error:
            self.sock.close()
            raise ConfigError(f"option 'metadata_proxy_socket': {path}: {error.strerror or error}") from None

    def remove(self) -> None:
        """Remove the file, unless another agent has put its own there, or this user may not.

        One that stays is no harm: the next start takes its place.
        """
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _bind(self) -> None:
        umask = os.umask(_NOBODY_ELSE)
        try:
            self.sock.bind(str(self._path))
        finally:
            os.umask(umask)


def _make_directory(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True)
        path.chmod(_DIRECTORY_MODE)  # whatever the umask


def _make_room(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError("is there already, and is not a socket")
    path.unlink()
