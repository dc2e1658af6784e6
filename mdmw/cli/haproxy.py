"""`mdmw-haproxy`: what Neutron's agents start as `haproxy` in a namespace that mdmw-node serves.

The program reads the configuration that the agent wrote (spec 4.7), has mdmw-node listen in this namespace,
and leaves a process that only sleeps. The process has the pid file and the command line that the agent looks
for (P-12). When the process ends, mdmw-node closes the listeners.
"""

import contextlib
import grp
import os
import pwd
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdmw.errors import ConfigError, MdmwError
from mdmw.node import channel, haproxy_file
from mdmw.node.control import DEFAULT_PATH, KeeperAbsent, ask_again, called
from mdmw.node.namespaces import Bind
from mdmw.records import Scope

PROGRAM = "mdmw-haproxy"
#: Environment variable with the path of the control socket of mdmw-node, if it is not the usual one.
SOCKET_VARIABLE = "MDMW_NODE_SOCKET"
_SLEEP = "sleep"
_ABSENT_FOR = 3.0  # seconds in which mdmw-node may start
_ABSENT_PAUSE = 0.1  # seconds
_WITHOUT_VALUE = ("-D", "-db", "-d", "-q", "-W", "-Ws", "-V")
_WITH_VALUE = ("-f", "-p", "-n", "-N", "-m", "-L", "-C")
_WITH_PIDS = ("-sf", "-st")


@dataclass(frozen=True, slots=True)
class Proxy:
    """What a configuration asks for: whose guests to serve, where to listen, and the process to leave."""

    scope: Scope
    binds: tuple[Bind, ...]
    pid_file: str
    user: str
    group: str


def main(argv: Sequence[str] | None = None) -> int:
    """Have this namespace served; 0 when it is, 1 with one line that says why it is not."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-v"], ["-vv"]):
        from importlib.metadata import version

        print(f"HAProxy stand-in, mdmw {version('mdmw')}: mdmw-node serves the metadata of this namespace")
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
    """What the configuration at `path` asks for; a `pid_file` given here wins. Raises `ConfigError`."""
    try:
        file = haproxy_file.parse(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if len(file.ids) != 1 or not file.binds:
        raise ConfigError(
            f"{path}: this is not a file of Neutron's DHCP or L3 agent, with one id and lines with bind"
        )
    [scope] = map(list, file.ids)
    if not channel.scope(scope):
        raise ConfigError(f"{path}: {scope[1]!r} is not a UUID")
    for bind in file.binds:
        if not channel.bind([bind.address, bind.port, bind.device]):
            raise ConfigError(f"{path}: metadata is not served at {bind}")
    if file.has_rate_limits:
        print(f"{PROGRAM}: {path}: mdmw-node does not apply the rate limits of this file", file=sys.stderr)
    if not (pid_file or file.pid_file):
        raise ConfigError(f"{path}: no pidfile")
    return Proxy(channel.to_scope(scope), file.binds, pid_file or file.pid_file, file.user, file.group)


def _arguments(words: list[str]) -> tuple[str, str, bool]:
    """Path of the configuration, path of the pid file or "", and whether to check the configuration only."""
    values = {}
    rest = iter(words)
    for word in rest:
        if word in _WITH_VALUE:
            values[word] = next(rest, "")
        elif word in _WITH_PIDS:
            break  # process ids of old proxies follow; Neutron ends these proxies itself
        elif word == "-c":
            values[word] = "yes"
        elif word not in _WITHOUT_VALUE:
            raise ConfigError(f"{word}: unknown option; Neutron starts 'haproxy -f FILE'")
    if not values.get("-f"):
        raise ConfigError("no configuration file; Neutron starts 'haproxy -f FILE'")
    return values["-f"], values.get("-p", ""), "-c" in values


# --- serving ----------------------------------------------------------------------------


def _serve(proxy: Proxy, path: str) -> None:
    """Leave a process, have mdmw-node listen as long as it lives, and write its id into the pid file."""
    identity = _identity(proxy)
    go_reader, go = os.pipe()
    error_reader, error_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.close(error_reader)
        _become_sleeper(path, identity, go_reader, error_writer)
    os.close(go_reader)
    os.close(error_writer)
    try:
        _attach(proxy, pid)
        os.write(go, b"!")
        _check_begun(error_reader)
        _write_pid(proxy.pid_file, pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(go)
        os.close(error_reader)


def _check_begun(error_reader: int) -> None:
    """Wait until the process sleeps; raises `ConfigError` with what the process writes if it cannot."""
    if why := os.read(error_reader, 1000):
        raise ConfigError(why.decode())


def _attach(proxy: Proxy, pid: int) -> None:
    """Ask mdmw-node to listen; raises `ControlError` when it refuses, or does not start within 3 seconds."""
    path = Path(os.environ.get(SOCKET_VARIABLE, DEFAULT_PATH))
    with contextlib.ExitStack() as at_end:
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        at_end.callback(os.close, namespace)
        pidfd = os.pidfd_open(pid)
        at_end.callback(os.close, pidfd)

        def ask() -> None:
            with called(path) as client:
                client.tell(
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
            except KeeperAbsent:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_ABSENT_PAUSE)  # mdmw-node may start at the same time as the agent


def _become_sleeper(path: str, identity: tuple[int, int] | None, go: int, error_writer: int) -> None:
    """Become the process that is left: wait for the word to go on, and sleep with no descriptor open."""
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
        # Neutron looks for the id in this command line. All other descriptors close here.
        os.execvp(_SLEEP, [f"haproxy -f {path}", "infinity"])  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        os.write(error_writer, f"{_SLEEP} cannot be started: {error.strerror}".encode())
    finally:
        os._exit(1)


def _identity(proxy: Proxy) -> tuple[int, int] | None:
    """User and group by number; None when they stay those of this process (P-11)."""
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
