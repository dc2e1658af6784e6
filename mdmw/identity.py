"""The identity of a process: its user, its group and its capabilities.

The module has three parts:

- an `Identity` by names or numbers, and `become`: a daemon changes to it for good (P-11); - `spawn` and
`drop_all_privileges`: a root process starts a program without privileges, after `check_code` has made sure
that the program's user can read the code; - `peer_credentials`: whose process has the other end of a unix
socket.
"""

import contextlib
import ctypes
import grp
import os
import pwd
import signal
import socket
import struct
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mdmw.errors import ConfigError

# linux/prctl.h, linux/capability.h
_SET_DUMPABLE = 4
_SET_KEEPCAPS = 8
_CAPBSET_DROP = 24
_SET_NO_NEW_PRIVS = 38
_CAP_AMBIENT, _RAISE, _CLEAR_ALL = 47, 2, 4
_ALL_CAPABILITIES = 64
_DAC_READ_SEARCH = 2
_SETPCAP = 8
_CAPABILITY_VERSION = 0x20080522
_NOBODY_ELSE = 0o077  # umask
_EXECUTABLE = 0o111
_CANNOT_START = 126  # exit status, as of a shell
_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid
#: Size of the credentials that the kernel gives, in bytes.
CREDENTIALS_BYTES = _CREDENTIALS.size
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group, by number."""

    uid: int
    gid: int


class PeerCredentials(NamedTuple):
    """The process at the other end of a unix socket: process id, user and group, as the kernel knows them."""

    pid: int
    uid: int
    gid: int


# --- this process -----------------------------------------------------------------------


def own_identity() -> Identity:
    """The effective user and group of this process."""
    return Identity(os.geteuid(), os.getegid())


def identity_of(user: str, group: str) -> Identity:
    """The identity of a user and a group, each a name or a number.

    An empty `user` stands for the user of this process. An empty `group` stands for the primary group of
    `user`, or for the group of this process if `user` is empty too. Raises `ConfigError`.
    """
    if not user:
        return Identity(os.geteuid(), _gid(group) if group else os.getegid())
    entry = _entry(user)
    if entry is None and not user.isdecimal():
        raise ConfigError(f"user {user!r} is unknown; a name or number of this host is allowed")
    if entry is None and not group:
        raise ConfigError(f"user {user} has no entry on this host, so that its group must be given too")
    uid = entry.pw_uid if entry else int(user)
    return Identity(uid, _gid(group) if group or entry is None else entry.pw_gid)


def become(identity: Identity) -> None:
    """Give up all groups, then the group, then the user, for good.

    Raises `ConfigError` when this process is not root, or when the user cannot read the code of mdmw.
    """
    if identity == own_identity():
        return
    try:
        os.setgroups([])
        os.setgid(identity.gid)
        os.setuid(identity.uid)
    except PermissionError:
        raise ConfigError(f"only root can become user {identity.uid}, group {identity.gid}") from None
    problem = _problem_of_code()
    if problem:
        raise ConfigError(problem)


def drop_all_privileges() -> None:
    """Give up the last capability, and hide this process's memory from all but root; raises OSError.

    For a program that `spawn` has started, as soon as it has read its files.
    """
    _prctl(_SET_DUMPABLE, 0)
    _prctl(_CAP_AMBIENT, _CLEAR_ALL)
    _set_capabilities(())


# --- a new process ----------------------------------------------------------------------


def spawn(command: Sequence[str], identity: Identity, inherited: int) -> int:
    """Start a program in a session of its own, as `identity` and with no way back; returns its process id.

    Of the capabilities of root the program keeps one until it calls `drop_all_privileges`: it may read every
    file, because configuration and secrets may be readable for root alone. Of the open descriptors the
    program has only `inherited`, and standard input, output and error. Raises OSError.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        become_unprivileged(identity)
        os.set_inheritable(inherited, True)
        os.execv(command[0], list(command))  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        print(f"mdmw-node: {command[0]} cannot be started: {error}", file=sys.stderr)
    finally:
        os._exit(_CANNOT_START)


def check_code(identity: Identity) -> None:
    """Make sure, as root, that a user can run this Python, and can read its modules and those of mdmw.

    A program that `spawn` has started may import a module after it has given up the capability to read every
    file. Raises `ConfigError`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become_unprivileged(identity)
            os.write(writing, _problem_of_code().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        problem = answer.read()
    os.waitpid(child, 0)
    if problem:
        raise ConfigError(problem)


def become_unprivileged(identity: Identity) -> None:
    """Become `identity` in a child of root, before it executes a program: see `spawn`. Raises OSError."""
    os.setsid()
    os.chdir("/")
    os.umask(_NOBODY_ELSE)
    signal.set_wakeup_fd(-1)
    _prctl(_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    _set_capabilities({_DAC_READ_SEARCH, _SETPCAP}, inheritable={_DAC_READ_SEARCH})
    for capability in range(_ALL_CAPABILITIES):
        with contextlib.suppress(OSError):  # not every kernel has all of them
            _prctl(_CAPBSET_DROP, capability)
    _prctl(_CAP_AMBIENT, _RAISE, _DAC_READ_SEARCH)
    _set_capabilities({_DAC_READ_SEARCH}, inheritable={_DAC_READ_SEARCH})
    _prctl(_SET_NO_NEW_PRIVS, 1)


# --- the peer of a socket ---------------------------------------------------------------


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """Whose process has the other end of a connected unix socket (SO_PEERCRED); raises OSError.

    The kernel tells the process that connected, or that listens, which may have ended meanwhile.
    """
    return parse_credentials(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS_BYTES))


def parse_credentials(raw: bytes) -> PeerCredentials:
    """The credentials in a control message of the type SCM_CREDENTIALS."""
    return PeerCredentials(*_CREDENTIALS.unpack(raw))


def _entry(user: str) -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(user)
    if user.isdecimal():
        with contextlib.suppress(KeyError, OverflowError):
            return pwd.getpwuid(int(user))
    return None


def _gid(group: str) -> int:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(group).gr_gid
    if not group.isdecimal():
        raise ConfigError(f"group {group!r} is unknown; a name or number of this host is allowed")
    return int(group)


def _problem_of_code() -> str:
    """What the real user of this process cannot run or read, as one line; empty when the user can do both.

    Capabilities do not count.
    """
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    loaded = [str(Path(file).parent) for file in files if file]
    for place in dict.fromkeys([str(Path(__file__).parent), sys.executable, *sys.path, *loaded]):
        closed = _closed_part(Path(place).resolve())
        if closed:
            return (
                f"user {_user_name(os.getuid())} cannot use {place}, because {closed} is closed to this "
                "user; install Python and mdmw where every user can read them"
            )
    return ""


def _closed_part(place: Path) -> Path | None:
    """The outermost directory, or the file itself, that the real user may not use; None without one."""
    for path in (*reversed(place.parents), place):
        try:
            mode = path.stat().st_mode
        except OSError:
            return None  # the path does not exist
        to_read = os.R_OK if path == place else 0
        to_enter_or_run = os.X_OK if mode & _EXECUTABLE else 0
        if not os.access(path, to_read | to_enter_or_run):
            return path
    return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _prctl(option: int, value: int, more: int = 0) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(more), 0, 0):
        raise _error()


def _set_capabilities(held: Collection[int], inheritable: Collection[int] = ()) -> None:
    """Have these capabilities, of the first 32, and no others."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    sets = [sum(1 << capability for capability in one) for one in (held, held, inheritable)]
    if _libc.capset(header, struct.pack("=6I", *sets, 0, 0, 0)):
        raise _error()


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
