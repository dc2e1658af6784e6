"""Users and groups: by name or number, and becoming one of them for good (P-11)."""

import contextlib
import ctypes
import grp
import os
import pwd
import signal
import struct
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

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
_NOBODY_ELSE = 0o077
_EXECUTABLE = 0o111
_CANNOT_START = 126
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group, by number."""

    uid: int
    gid: int


def own_identity() -> Identity:
    """Those that this process acts with."""
    return Identity(os.geteuid(), os.getegid())


def identity_of(user: str, group: str) -> Identity:
    """The numbers of names or numbers; of what is empty those of this process.

    A user that is given without a group has its own primary group. Raises `ConfigError`.
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


def become(ids: Identity) -> None:
    """Give up all groups, then the group, then the user, for good; raises `ConfigError`."""
    if ids == own_identity():
        return
    try:
        os.setgroups([])
        os.setgid(ids.gid)
        os.setuid(ids.uid)
    except PermissionError:
        raise ConfigError(f"only root can become user {ids.uid}, group {ids.gid}") from None
    problem = _problem_of_code()
    if problem:
        raise ConfigError(problem)


def check_code(identity: Identity) -> None:
    """As root: make sure that a user can run this Python, and can read its modules and those of mdmw.

    A module may be loaded at any time, also after a process has given up the power to read every file.
    Raises `ConfigError`.
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


def _problem_of_code() -> str:
    """What the real user of this process cannot run or read, whatever its capabilities; empty if nothing."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    loaded = [str(Path(file).parent) for file in files if file]
    for place in dict.fromkeys([str(Path(__file__).parent), sys.executable, *sys.path, *loaded]):
        closed = _closed(Path(place).resolve())
        if closed:
            return (
                f"user {_user(os.getuid())} cannot use {place}, because {closed} is closed to this user; "
                "install Python and mdmw where every user can read them"
            )
    return ""


def _closed(place: Path) -> Path | None:
    """The outermost of a place and its parents that the real user may not use, if there is one."""
    for path in (*reversed(place.parents), place):
        try:
            mode = path.stat().st_mode
        except OSError:
            return None  # there is no such place
        to_read = os.R_OK if path == place else 0
        to_enter_or_run = os.X_OK if mode & _EXECUTABLE else 0
        if not os.access(path, to_read | to_enter_or_run):
            return path
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


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


def spawn(command: Sequence[str], identity: Identity, inherited: int) -> int:
    """Start a program in a session of its own, as `identity` and with no way back; its process id.

    One power of root is left to it, until it calls `give_up`: to read every file, since
    configuration and secrets may be root's alone. Of the descriptors here it has only
    `inherited` and the standard ones. Raises OSError.
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


def drop_all_privileges() -> None:
    """In a spawned program, once it has loaded: no power is left, and its memory is for root's eyes only."""
    _prctl(_SET_DUMPABLE, 0)
    _prctl(_CAP_AMBIENT, _CLEAR_ALL)
    _set_capabilities(())


def become_unprivileged(identity: Identity) -> None:
    """In a child of root, before it runs another program: see `spawn`. Raises OSError."""
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
