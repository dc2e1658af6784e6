"""The agent's unix socket: is it there, may the proxies connect, does somebody answer?"""

import contextlib
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from mdmw.doctor.deployment import peer
from mdmw.doctor.findings import Finding
from mdmw.doctor.look import ANSWER_WITHIN
from mdmw.doctor.sockets import obstacle

_NONSENSE = b"?\r\n\r\n"  # refused by whoever answers, without a question to anybody
_RESTART = ("systemctl restart mdmw-agent  # or mdmw-metadata-agent", "journalctl -u 'mdmw-*agent' -n 20")


def check(path: Path, users: Mapping[str, tuple[int, frozenset[int]]]) -> Iterator[Finding]:
    """`users` are the proxies: name for people -> user, and groups."""
    where = str(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield Finding(
            "socket-missing", where, f"there is no agent: {error.strerror}", f"ls -l {path}", _RESTART
        )
        return
    if not stat.S_ISSOCK(mode):
        mend = (f"rm {path}", *_RESTART)
        yield Finding("socket-missing", where, "it is not a socket", f"ls -l {path}", mend)
        return
    yield from _forbidden(path, users)
    yield from _silent(path)


def _forbidden(path: Path, users: Mapping[str, tuple[int, frozenset[int]]]) -> Iterator[Finding]:
    for name, (uid, groups) in users.items():
        with contextlib.suppress(OSError):  # it went away meanwhile
            if why := obstacle(path, uid, groups):
                what = f"{name}, user {uid}, may not connect: {why}"
                mend = (
                    "# metadata_proxy_user and metadata_proxy_group of the agent say whose the socket is",
                    f"chown {uid} {path}",
                    f"chmod u+rw {path}",
                )
                yield Finding("socket-forbidden", str(path), what, f"namei -l {path}", mend)


def _silent(path: Path) -> Iterator[Finding]:
    where, how = str(path), f"ss -xlp src {path}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except BlockingIOError:
            what = "nobody accepts connections, and the backlog is full"
            yield Finding("agent-full", where, what, how, _RESTART)
            return
        except OSError as error:
            what = f"nobody listens there: {error.strerror}"
            yield Finding("agent-down", where, what, how, _RESTART)
            return
        sock.settimeout(ANSWER_WITHIN)
        try:
            sock.sendall(_NONSENSE)
            sock.recv(1)
        except TimeoutError:
            who = peer(path)
            is_stopped = who is not None and who.state == "T"
            what = f"{who or 'the agent'} does not answer{', it is stopped' if is_stopped else ''}"
            mend = (f"kill -CONT {who.pid}",) if who and is_stopped else _RESTART
            yield Finding("agent-hung", where, what, f"nothing came within {ANSWER_WITHIN} s", mend)
        except OSError:  # it closed: somebody is awake
            return
