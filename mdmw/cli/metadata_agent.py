"""`mdmw-metadata-agent`: takes the place of neutron-metadata-agent, with its command line and its files.

Runs the pipeline `agent` of etc/metadata-agent.ini, or of `MDMW_PASTE_INI`, on gunicorn (spec 5.1).
"""

import contextlib
import logging
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg

from mdmw import options
from mdmw.boundary.stage import App
from mdmw.cli import on_gunicorn
from mdmw.cli.common import DaemonParser
from mdmw.cli.on_gunicorn import Server
from mdmw.errors import ConfigError
from mdmw.identity import Identity, identity_of, own_identity
from mdmw.resolvers.shared import GROUP_DIRECTORY
from mdmw.resolvers.state_report import start_reporting
from mdmw.wire import one_line
from mdmw.wsgi import pipelines

#: What `metadata_proxy_socket_mode` may be, beside `DEDUCE`. To connect one needs permission to write.
MODES = {"user": 0o600, "group": 0o660, "all": 0o666}
DEDUCE = "deduce"

_DIRECTORY_MODE = 0o755
_NOBODY_ELSE = 0o177


def mode_of(setting: str, user: str, group: str, proxy: Identity, agent: Identity) -> int:
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

    def __init__(self, path: str, mode: int, owner: Identity, backlog: int) -> None:
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


LOG = logging.getLogger(__name__)

PROGRAM = "mdmw-metadata-agent"

_STATE_PATH = cfg.StrOpt("state_path", default="/var/lib/neutron", help="Where Neutron keeps its state.")
_SOCKET = cfg.StrOpt(
    "metadata_proxy_socket", default="$state_path/metadata_proxy", help="Unix socket to listen on."
)
OPTIONS = [
    _STATE_PATH,
    cfg.StrOpt(
        "metadata_proxy_socket_mode",
        default=DEDUCE,
        choices=[DEDUCE, *MODES],
        help="Who may connect: the owner, its group too, or all; deduced from metadata_proxy_user and "
        "metadata_proxy_group.",
    ),
    cfg.StrOpt("metadata_proxy_user", default="", help="User of the proxies, who then owns the socket."),
    cfg.StrOpt("metadata_proxy_group", default="", help="Group of the proxies, whose the socket then is."),
    cfg.IntOpt(
        "metadata_workers",
        default=(os.cpu_count() or 1) // 2,
        min=0,
        sample_default="<number of CPUs> / 2",
        help="Worker processes, each with 200 threads; 0 is one too.",
    ),
    cfg.IntOpt("metadata_backlog", default=4096, min=1, help="Connections that may wait to be accepted."),
    cfg.StrOpt("user", default="", help="User to become once the socket is there; default: the caller."),
    cfg.StrOpt("group", default="", help="Group to become; default: the user's own."),
    cfg.StrOpt("resolver", help="Resolver to use (entry point of mdmw.resolvers); default: auto."),
]

#: Read where oslo.config would look for them, when no file is named.
_STANDARD_FILES = ("/etc/neutron/neutron.conf", "/etc/neutron/metadata_agent.ini")
_WITHOUT_EFFECT = ("use-journal", "use-json", "watch-log-file")
_NOT_OPTIONS = ("config_file", "config_dir", *(name.replace("-", "_") for name in _WITHOUT_EFFECT))
_GROUP_DIR_PREFIX = "mdmw-agent-"
_GROUP_DIR_PARENTS = ("/run/mdmw", "/run")
_NEXT_START = (
    *("metadata_proxy_socket", "metadata_proxy_socket_mode", "metadata_proxy_user", "metadata_proxy_group"),
    *("metadata_backlog", "user", "group", "state_path"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; the status is 2, with one line, when that cannot be done."""
    try:
        Agent(_parser().given(argv)).run()
    except ConfigError as error:
        print(f"{PROGRAM}: {str(error).removeprefix(f'{PROGRAM}: ')}", file=sys.stderr)
    return 2


def _parser() -> DaemonParser:
    parser = DaemonParser(PROGRAM, "Answer the metadata proxies of this host, as neutron-metadata-agent.")
    parser.add_argument(
        "--config-file",
        action="append",
        metavar="PATH",
        help=f"Neutron's files, the last wins; default, where they exist: {', '.join(_STANDARD_FILES)}",
    )
    parser.add_argument(
        "--config-dir", action="append", metavar="DIR", help="*.conf files of a directory, read after those"
    )
    parser.add_argument("--state-path", metavar="DIR", help="default: /var/lib/neutron")
    parser.add_argument("--user", help="become this user once the socket is there")
    parser.add_argument("--group", help="become this group; default: the user's own")
    parser.add_log_options()
    parser.add_argument("--log-config-append", "--log-config", metavar="PATH", help="file for logging.config")
    parser.add_argument("--log-date-format", metavar="FORMAT", help="as of strftime")
    for switch in _WITHOUT_EFFECT:
        parser.add_switch(switch, "taken for the sake of old init scripts; has no effect")
    return parser


class Agent:
    """One agent: what its command line gives, and what was read from its files last."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._files = _global_conf(given)
        self._options = {name: value for name, value in given.items() if name not in _NOT_OPTIONS}
        self._settings = self._read()

    def run(self) -> None:
        """Serve until a signal ends it, by SystemExit; raises `ConfigError` before that.

        The configuration is read, and all code loaded, while this is still the
        caller's user; the socket of another agent is not touched before that went well.
        """
        settings = self._settings
        ids = identity_of(settings.user, settings.group)
        on_gunicorn.start_log(settings, PROGRAM)
        directory = _group_directory(settings.state_path, ids)
        with _afterwards(lambda: shutil.rmtree(directory, ignore_errors=True)):
            os.environ[GROUP_DIRECTORY] = directory
            application = self._load(settings)
            listener = _listen(settings, ids)
            with _afterwards(listener.remove):
                Server(application, listener.sock, ids, self._for_gunicorn(settings), self._reload).run()

    def _read(self) -> SimpleNamespace:
        settings = options.load(PROGRAM, [*OPTIONS, *on_gunicorn.OPTIONS], self._files, self._options)
        settings.metadata_proxy_socket = _socket_path(settings)
        return settings

    def _load(self, settings: SimpleNamespace) -> App:
        path = os.environ.get(pipelines.INI_VARIABLE) or str(
            resources.files("mdmw") / "etc" / "metadata-agent.ini"
        )
        resolver = {"resolver": settings.resolver} if settings.resolver else {}
        return pipelines.load("agent", path, self._files | resolver)

    def _reload(self) -> tuple[App, Mapping[str, Any]]:
        """What SIGHUP asks for: the files as they are now; raises `ConfigError`."""
        settings = self._read()
        application = self._load(settings)
        for option in _NEXT_START:
            if getattr(settings, option) != getattr(self._settings, option):
                LOG.warning("option %r has changed: that takes effect at the next start", option)
        on_gunicorn.set_level(settings)
        self._settings = settings
        return application, self._for_gunicorn(settings)

    def _for_gunicorn(self, settings: SimpleNamespace) -> Mapping[str, Any]:
        def post_fork(_master: object, _worker: object) -> None:
            start_reporting(self._files, settings.metadata_proxy_socket)

        return {"workers": max(settings.metadata_workers, 1), "post_fork": post_fork}


def _global_conf(given: Mapping[str, Any]) -> dict[str, str]:
    files = given.get("config_file") or [path for path in _STANDARD_FILES if Path(path).exists()]
    return {"config_file": ",".join(files), "config_dir": ",".join(given.get("config_dir", []))}


def _socket_path(settings: SimpleNamespace) -> str:
    """The files may say $state_path, which the command line may say."""
    conf = settings.config.parse(PROGRAM, [_STATE_PATH, _SOCKET])
    conf.set_override("state_path", settings.state_path)
    try:
        return str(conf.metadata_proxy_socket)
    except cfg.Error as error:
        raise options.refuse(settings, "metadata_proxy_socket", one_line(str(error))) from None


def _listen(settings: SimpleNamespace, agent: Identity) -> AgentSocket:
    user, group = settings.metadata_proxy_user, settings.metadata_proxy_group
    proxy = identity_of(user, group)
    mode = mode_of(settings.metadata_proxy_socket_mode, user, group, proxy, agent)
    owner = Identity(proxy.uid if user else agent.uid, proxy.gid if user or group else agent.gid)
    return AgentSocket(settings.metadata_proxy_socket, mode, owner, settings.metadata_backlog)


def _group_directory(state_path: str, ids: Identity) -> str:
    """Made where its owner can remove it again."""
    if ids != own_identity():
        directory = tempfile.mkdtemp(prefix=_GROUP_DIR_PREFIX)
        os.chown(directory, ids.uid, ids.gid)
        return directory
    parents = [path for path in (*_GROUP_DIR_PARENTS, state_path) if os.access(path, os.W_OK | os.X_OK)]
    return tempfile.mkdtemp(prefix=_GROUP_DIR_PREFIX, dir=next(iter(parents), None))


@contextlib.contextmanager
def _afterwards(clean_up: Callable[[], None]) -> Iterator[None]:
    """Clean up at the end of the block; not in a worker, which comes by here too when it ends."""
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:
            clean_up()
