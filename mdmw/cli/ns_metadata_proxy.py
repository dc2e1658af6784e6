"""`mdmw-ns-metadata-proxy`: the proxy of one namespace, with the arguments of Neutron's until 2017 (P-9).

The daemon runs the pipeline `proxy` of etc/ns-metadata-proxy.ini in one process, in the namespace in which it
is started.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from oslo_config import cfg

from mdmw import options
from mdmw.boundary.stage import App
from mdmw.cli import on_gunicorn
from mdmw.cli.common import DaemonParser
from mdmw.cli.on_gunicorn import OneProcess
from mdmw.errors import ConfigError
from mdmw.identity import identity_of
from mdmw.locking import try_lock
from mdmw.wsgi import pipelines

PROGRAM = "mdmw-ns-metadata-proxy"

OPTIONS = [
    cfg.StrOpt(
        "network_id", help="Id of the network whose guests are served; give this option or router_id."
    ),
    cfg.StrOpt("router_id", help="Id of the router whose guests are served; give this option or network_id."),
    cfg.StrOpt("pid_file", help="File for the process id."),
    cfg.BoolOpt(
        "daemonize", default=True, help="Serve in the background; the command ends when the proxy serves."
    ),
    cfg.PortOpt("metadata_port", default=9697, min=1, help="TCP port that the proxy listens on."),
    cfg.ListOpt(
        "bind",
        default=[],
        help="Addresses that the proxy listens on; default: all addresses of the namespace.",
    ),
    cfg.StrOpt(
        "state_path", default="/var/lib/neutron", help="Directory with the state of Neutron's agents."
    ),
    cfg.StrOpt(
        "metadata_proxy_socket",
        help="Unix socket of the metadata agent; default: $state_path/metadata_proxy.",
    ),
    cfg.StrOpt("metadata_proxy_user", default="", help="User that the proxy becomes when it listens."),
    cfg.StrOpt(
        "metadata_proxy_group",
        default="",
        help="Group that the proxy becomes; default: the primary group of the user.",
    ),
    cfg.BoolOpt(
        "metadata_proxy_watch_log", default=True, help="Open the log file again after it was moved away."
    ),
]
_BACKLOG = 4096
#: Seconds; Neutron's agents kill a proxy 5 seconds after SIGTERM (P-13).
_GRACEFUL = {"graceful_timeout": 4}
_PID_FILE_MODE = 0o644


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM. When the proxy cannot start, print one line and return 2."""
    try:
        given = _parser().given(argv)
        return _start(options.load(PROGRAM, [*OPTIONS, *on_gunicorn.OPTIONS], {}, given))
    except ConfigError as error:
        print(f"{PROGRAM}: {str(error).removeprefix(f'{PROGRAM}: ')}", file=sys.stderr)
        return 2


def _parser() -> DaemonParser:
    parser = DaemonParser(
        PROGRAM,
        "Answer the guests of one network or router through the metadata agent of this host. Start the proxy "
        "in the namespace of the guests: ip netns exec qrouter-ID mdmw-ns-metadata-proxy --router_id ID ...",
    )
    parser.add_argument("--network-id", metavar="UUID", help="id of the network whose guests are served")
    parser.add_argument(
        "--router-id",
        metavar="UUID",
        help="id of the router whose guests are served; give this option or --network-id",
    )
    parser.add_argument(
        "--metadata-port", metavar="PORT", help="TCP port that the proxy listens on; default: 9697"
    )
    parser.add_argument(
        "--bind",
        metavar="IP,...",
        help="addresses that the proxy listens on; a link-local address needs its device, as in "
        "fe80::a9fe:a9fe%%tap0; default: all addresses of the namespace",
    )
    parser.add_argument(
        "--metadata-proxy-socket",
        metavar="PATH",
        help="unix socket of the metadata agent; default: STATE_PATH/metadata_proxy",
    )
    parser.add_argument(
        "--state-path",
        metavar="DIR",
        help="directory with the state of Neutron's agents; default: /var/lib/neutron",
    )
    parser.add_argument(
        "--metadata-proxy-user", metavar="USER", help="user that the proxy becomes when it listens"
    )
    parser.add_argument(
        "--metadata-proxy-group",
        metavar="GROUP",
        help="group that the proxy becomes; default: the primary group of the user",
    )
    parser.add_argument(
        "--pid-file",
        metavar="PATH",
        help="file for the process id; locked while the proxy runs, removed when the proxy ends",
    )
    parser.add_switch(
        "daemonize", "serve in the background; the command ends when the proxy serves; this is the default"
    )
    parser.add_switch(
        "metadata-proxy-watch-log", "open the log file again after it was moved away; this is the default"
    )
    parser.add_log_options()
    return parser


def _start(settings: SimpleNamespace) -> int:
    """Find mistakes while the command is in the foreground, and do what needs root."""
    if bool(settings.network_id) == bool(settings.router_id):
        raise ConfigError("exactly one of --network_id and --router_id is needed")
    application = _load(settings)
    ids = identity_of(settings.metadata_proxy_user, settings.metadata_proxy_group)
    pid_file = _pid_file(settings)
    try:
        listeners = _listen(settings.bind, settings.metadata_port)
    except ConfigError:
        if pid_file:
            pid_file.remove()
        raise

    def serve(ready: Callable[[], None]) -> NoReturn:
        with contextlib.ExitStack() as at_end:
            if pid_file:
                at_end.callback(pid_file.remove)
                pid_file.write()
            on_gunicorn.start_log(settings, PROGRAM, watch=settings.metadata_proxy_watch_log)
            OneProcess(application, listeners, ids, _GRACEFUL, ready).serve()
        os._exit(0)  # threads that wait for the agent would keep the interpreter from ending

    return _in_background(serve) if settings.daemonize else serve(lambda: None)


def _in_background(serve: Callable[[Callable[[], None]], NoReturn]) -> int:
    """Serve in a child process without a terminal; the exit status, 0 as soon as the child is ready."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        is_ready = os.read(reading, 1)  # b"" when the child has ended instead
        return 0 if is_ready else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.setsid()
    os.chdir("/")

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.write(writing, b"+")
        os.close(writing)

    return serve(ready)


def _pid_file(settings: SimpleNamespace) -> "PidFile | None":
    return (
        PidFile(settings.pid_file, settings.network_id or settings.router_id) if settings.pid_file else None
    )


def _load(settings: SimpleNamespace) -> App:
    scope = "network_id" if settings.network_id else "router_id"
    given = {
        scope: getattr(settings, scope),
        "metadata_proxy_socket": settings.metadata_proxy_socket or f"{settings.state_path}/metadata_proxy",
    }
    return pipelines.load("proxy", str(resources.files("mdmw") / "etc" / "ns-metadata-proxy.ini"), given)


def _listen(addresses: list[str], port: int) -> list[socket.socket]:
    """Listening sockets in this namespace; without `addresses` one socket for all addresses, also of IPv6."""
    try:
        if addresses:
            return [_listen_at(address, port) for address in addresses]
        if socket.has_dualstack_ipv6():
            return [_listener(("::", port), socket.AF_INET6, dualstack=True)]
        return [_listener(("0.0.0.0", port), socket.AF_INET)]  # noqa: S104 - the namespace is the limit
    except OSError as error:
        where = ", ".join(addresses) or "all addresses"
        raise ConfigError(f"cannot listen on port {port} of {where}: {error.strerror}") from None


def _listen_at(address: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, _, _, _, target = found[0]
    return _listener(target, family)


def _listener(target: Any, family: int, dualstack: bool = False) -> socket.socket:
    sock = socket.create_server(target, family=family, backlog=_BACKLOG, dualstack_ipv6=dualstack)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


# --- the pid file -----------------------------------------------------------------------


class PidFile:
    """The pid file of this process, which the constructor locks and `write` fills in.

    The constructor raises `ConfigError` when the file belongs to another proxy: when it is locked, or names a
    process with `mark` in its command line. Any other file is taken over. The lock outlives a fork.
    """

    def __init__(self, path: str, mark: str) -> None:
        self._path = Path(path).absolute()
        try:
            self._descriptor = self._locked()
        except OSError as error:
            raise ConfigError(f"option 'pid_file': {path}: {error.strerror}") from None
        if _is_alive(self._read(), mark):
            raise self._taken()

    def write(self) -> None:
        """Write the id of this process into the file."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def remove(self) -> None:
        """Remove the file, or empty it if this user may not remove it any more."""
        try:
            self._path.unlink()
        except OSError:
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _locked(self) -> int:
        while True:
            descriptor = os.open(
                self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _PID_FILE_MODE
            )
            self._descriptor = descriptor
            if not try_lock(descriptor):
                raise self._taken()
            if self._path.exists() and self._path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
            os.close(descriptor)  # its owner removed the file at this moment

    def _taken(self) -> ConfigError:
        pid = self._read()
        os.close(self._descriptor)
        return ConfigError(f"option 'pid_file': {self._path}: a proxy runs already, with pid {pid or '?'}")

    def _read(self) -> int:
        text = os.pread(self._descriptor, 20, 0).strip()
        return int(text) if text.isdigit() else 0


def _is_alive(pid: int, mark: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return pid != os.getpid() and mark.encode() in command
