"""`mdmw-haproxy`: what Neutron's agents start as `haproxy` in a namespace, when mdmw-node serves it.

It reads the configuration that they wrote (spec 4.7), has mdmw-node listen in this namespace, and
leaves a process that only sleeps: with the pid file and the command line that they look for
(P-12). When that process is ended, mdmw-node no longer listens.
"""

import grp
import os
import pwd
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdmw.errors import ConfigError, MdmwError
from mdmw.node import channel
from mdmw.node.control import Absent, ask_again, called
from mdmw.node.namespaces import Bind
from mdmw.records import Scope

PROGRAM = "mdmw-haproxy"
#: Names the control socket of mdmw-node, if it is elsewhere.
SOCKET_VARIABLE = "MDMW_NODE_SOCKET"
_SOCKET = "/run/mdmw/node.sock"
_SLEEP = "sleep"
_ABSENT_FOR = 3.0  # seconds in which mdmw-node may be on its way
_ABSENT_PAUSE = 0.1

_BIND = re.compile(r"bind\s+(\S*):([0-9]+)(?:\s+interface\s+(\S+))?\s*")
_ID = re.compile(
    r"http-request\s+(?:set|add)-header\s+X-(?:Neutron|Quantum|OVN)-(Network|Router)-ID\s+(\S+)\s*"
)
_LIMIT = re.compile(r"http-request\s+deny\s+deny_status\s+429\b")
_SETTING = re.compile(r"(pidfile|user|group)\s+(\S+)\s*")
_WITHOUT_VALUE = ("-D", "-db", "-d", "-q", "-W", "-Ws", "-V")
_WITH_VALUE = ("-f", "-p", "-n", "-N", "-m", "-L", "-C")
_WITH_PIDS = ("-sf", "-st")


@dataclass(frozen=True, slots=True)
class Proxy:
    """What a configuration of Neutron's asks for."""

    scope: Scope
    binds: tuple[Bind, ...]
    pid_file: str
    user: str
    group: str


def main(argv: Sequence[str] | None = None) -> int:
    """Serve this namespace; 0 once it is served, 1 with a line that says why it is not."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-v"], ["-vv"]):
        from importlib.metadata import version

        print(f"HAProxy stand-in, mdmw {version('mdmw')}: this namespace's metadata is served by mdmw-node")
        return 0
    try:
        path, pid_file, is_check = _arguments(words)
        proxy = read(path, pid_file)
        if is_check:
            print("Configuration file is valid")
            return 0
        _serve(proxy, path)
    except (MdmwError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


def read(path: str, pid_file: str = "") -> Proxy:
    """What the file at `path` asks for; raises `ConfigError`."""
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    settings = {"pidfile": pid_file, "user": "", "group": ""}
    for found in filter(None, map(_SETTING.fullmatch, lines)):
        settings[found[1]] = settings[found[1]] or found[2]
    scopes = {(found[1].lower(), found[2]) for found in filter(None, map(_ID.fullmatch, lines))}
    binds = [_bind(found) for found in filter(None, map(_BIND.fullmatch, lines))]
    if len(scopes) != 1 or not binds:
        raise ConfigError(f"{path}: is not what Neutron's DHCP and L3 agents write: one id and where to bind")
    scope = list(scopes.pop())
    if not channel.scope(scope):
        raise ConfigError(f"{path}: {scope[1]!r} is not a UUID")
    for bind in binds:
        if not channel.bind([bind.address, bind.port, bind.device]):
            raise ConfigError(f"{path}: metadata is not served at {bind}")
    if any(_LIMIT.match(line) for line in lines):
        print(f"{PROGRAM}: {path}: its rate limits do not count here", file=sys.stderr)
    if not settings["pidfile"]:
        raise ConfigError(f"{path}: no pidfile")
    return Proxy(
        channel.to_scope(scope), tuple(binds), settings["pidfile"], settings["user"], settings["group"]
    )


def _arguments(words: list[str]) -> tuple[str, str, bool]:
    """Path of the configuration, of the pid file if one is named, and whether to check only."""
    values = {}
    rest = iter(words)
    for word in rest:
        if word in _WITH_VALUE:
            values[word] = next(rest, "")
        elif word in _WITH_PIDS:
            break  # whatever follows are process ids, of proxies that Neutron ends itself
        elif word == "-c":
            values[word] = "yes"
        elif word not in _WITHOUT_VALUE:
            raise ConfigError(f"{word}: is not understood; Neutron says 'haproxy -f FILE'")
    if not values.get("-f"):
        raise ConfigError("no configuration; Neutron says 'haproxy -f FILE'")
    return values["-f"], values.get("-p", ""), "-c" in values


def _bind(found: re.Match[str]) -> Bind:
    address = found[1].strip("[]")
    if address in ("", "*"):
        address = "0.0.0.0"  # noqa: S104 - what haproxy takes '*' for; Neutron decides
    return Bind(address, int(found[2]), found[3])


# --- serving ----------------------------------------------------------------------------


def _serve(proxy: Proxy, path: str) -> None:
    """Leave the process, have mdmw-node listen as long as it lives, and write down its id."""
    identity = _identity(proxy)
    go_reader, go = os.pipe()
    word, word_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.close(word)
        _become_sleeper(path, identity, go_reader, word_writer)
    os.close(go_reader)
    os.close(word_writer)
    try:
        _attach(proxy, pid)
        os.write(go, b"!")
        _must_have_begun(word)
        _write_pid(proxy.pid_file, pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _must_have_begun(word: int) -> None:
    """Wait for the process; it says something only if it could not begin, which is a `ConfigError`."""
    if why := os.read(word, 1000):
        raise ConfigError(why.decode())


def _attach(proxy: Proxy, pid: int) -> None:
    """Ask mdmw-node; raises `ControlError` when it refuses, or is not there for a while."""
    path = Path(os.environ.get(SOCKET_VARIABLE, _SOCKET))
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    pidfd = os.pidfd_open(pid)

    def ask() -> None:
        with called(path) as caller:
            caller.tell(
                "attach",
                [namespace, pidfd],
                name=proxy.scope.id,
                pid=pid,
                scope=[proxy.scope.kind, proxy.scope.id],
                binds=[[bind.address, bind.port, bind.device] for bind in proxy.binds],
            )

    deadline = time.monotonic() + _ABSENT_FOR
    while True:
        try:
            return ask_again(ask)
        except Absent:
            if time.monotonic() > deadline:
                raise
            time.sleep(_ABSENT_PAUSE)  # the daemon may be starting, beside the agent that started this


def _become_sleeper(path: str, identity: tuple[int, int] | None, go: int, word: int) -> None:
    """The process that is left: it begins when it is told to, and holds nothing open."""
    try:
        os.setsid()
        os.chdir("/")
        if not os.read(go, 1):
            os._exit(1)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        if identity:
            os.setgroups([])
            os.setgid(identity[1])
            os.setuid(identity[0])
        # Neutron looks for the id in this line. What else it had open closes here.
        os.execvp(_SLEEP, [f"haproxy -f {path}", "infinity"])  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        os.write(word, f"{_SLEEP} cannot be started: {error.strerror}".encode())
    finally:
        os._exit(1)


def _identity(proxy: Proxy) -> tuple[int, int] | None:
    """User and group by number; None when they are to stay as they are (P-11)."""
    if not (proxy.user or proxy.group):
        return None
    try:
        uid = pwd.getpwnam(proxy.user).pw_uid if proxy.user else os.geteuid()
        gid = grp.getgrnam(proxy.group).gr_gid if proxy.group else os.getegid()
    except KeyError as error:
        raise ConfigError(f"user or group of the configuration: {error.args[0]}") from None
    return uid, gid


def _write_pid(path: str, pid: int) -> None:
    temporary = Path(f"{path}.new")
    temporary.write_text(f"{pid}\n")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
