"""Users and groups: by name or number, and becoming one of them for good (P-11)."""

import contextlib
import grp
import os
import pwd
from dataclasses import dataclass

from mdmw.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ids:
    """A user and a group, by number."""

    uid: int
    gid: int


def own_ids() -> Ids:
    """Those that this process acts with."""
    return Ids(os.geteuid(), os.getegid())


def ids_of(user: str, group: str) -> Ids:
    """The numbers of names or numbers; of what is empty those of this process.

    A user that is given without a group has its own primary group. Raises `ConfigError`.
    """
    if not user:
        return Ids(os.geteuid(), _gid(group) if group else os.getegid())
    entry = _entry(user)
    if entry is None and not user.isdecimal():
        raise ConfigError(f"user {user!r} is unknown; a name or number of this host is allowed")
    if entry is None and not group:
        raise ConfigError(f"user {user} has no entry on this host, so that its group must be given too")
    uid = entry.pw_uid if entry else int(user)
    return Ids(uid, _gid(group) if group or entry is None else entry.pw_gid)


def become(ids: Ids) -> None:
    """Give up all groups, then the group, then the user, for good; raises `ConfigError`."""
    if ids == own_ids():
        return
    try:
        os.setgroups([])
        os.setgid(ids.gid)
        os.setuid(ids.uid)
    except PermissionError:
        raise ConfigError(f"only root can become user {ids.uid}, group {ids.gid}") from None


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
