"""`mdmw-metadata-agent`: replaces neutron-metadata-agent, with the same command line and the same files.

The daemon runs the pipeline `agent` of etc/metadata-agent.ini, or of the file in `MDMW_PASTE_INI`, on
gunicorn (spec 5.1).
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

LOG = logging.getLogger(__name__)

PROGRAM = "mdmw-metadata-agent"

#: Value of `metadata_proxy_socket_mode` -> mode of the socket. Who connects needs permission to write.
MODES = {"user": 0o600, "group": 0o660, "all": 0o666}
DEDUCE = "deduce"

_DIRECTORY_MODE = 0o755
_NOBODY_ELSE = 0o177

_STATE_PATH = cfg.StrOpt(
    "state_path", default="/var/lib/neutron", help="Directory with the state of Neutron's agents."
)
_SOCKET = cfg.StrOpt(
    "metadata_proxy_socket", default="$state_path/metadata_proxy", help="Unix socket to listen on."
)
OPTIONS = [
    _STATE_PATH,
    cfg.StrOpt(
        "metadata_proxy_socket_mode",
        default=DEDUCE,
        choices=[DEDUCE, *MODES],
        help="Users that may connect to the socket: user (its owner), group (also its group), all, or deduce "
        "(the strictest of them that lets metadata_proxy_user and metadata_proxy_group connect).",
    ),
    cfg.StrOpt(
        "metadata_proxy_user",
        default="",
        help="User of the proxies; this user becomes the owner of the socket.",
    ),
    cfg.StrOpt("metadata_proxy_group", default="", help="Group of the proxies; the socket gets this group."),
    cfg.IntOpt(
        "metadata_workers",
        default=(os.cpu_count() or 1) // 2,
        min=0,
        sample_default="<number of CPUs> / 2",
        help="Number of worker processes, each with 200 threads; 0 means 1.",
    ),
    cfg.IntOpt(
        "metadata_backlog",
        default=4096,
        min=1,
        help="Largest number of connections that wait until a worker accepts them.",
    ),
    cfg.StrOpt(
        "user",
        default="",
        help="User that the agent becomes when its socket is open; default: the user that starts the agent.",
    ),
    cfg.StrOpt(
        "group", default="", help="Group that the agent becomes; default: the primary group of the user."
    ),
    cfg.StrOpt(
        "resolver", help="Resolver that finds the instance (an entry point of mdmw.resolvers); default: auto."
    ),
]

#: Files that are read when the command line names no file.
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
    """Serve until SIGTERM. When the agent cannot start, print one line and return 2."""
    try:
        Agent(_parser().given(argv)).run()
    except ConfigError as error:
        print(f"{PROGRAM}: {str(error).removeprefix(f'{PROGRAM}: ')}", file=sys.stderr)
    return 2


def _parser() -> DaemonParser:
    parser = DaemonParser(
        PROGRAM, "Answer the metadata proxies of this host, in the place of neutron-metadata-agent."
    )
    parser.add_argument(
        "--config-file",
        action="append",
        metavar="PATH",
        help="configuration file of Neutron; may be given several times, and then the last file wins; "
        f"default, if they exist: {', '.join(_STANDARD_FILES)}",
    )
    parser.add_argument(
        "--config-dir",
        action="append",
        metavar="DIR",
        help="directory with files *.conf, which are read after the files of --config-file",
    )
    parser.add_argument(
        "--state-path",
        metavar="DIR",
        help="directory with the state of Neutron's agents; default: /var/lib/neutron",
    )
    parser.add_argument("--user", help="user that the agent becomes when its socket is open")
    parser.add_argument(
        "--group", help="group that the agent becomes; default: the primary group of the user"
    )
    parser.add_log_options()
    parser.add_argument(
        "--log-config-append",
        "--log-config",
        metavar="PATH",
        help="file with a configuration for Python's logging.config",
    )
    parser.add_argument(
        "--log-date-format", metavar="FORMAT", help="format of the time in a log line, as of strftime"
    )
    for switch in _WITHOUT_EFFECT:
        parser.add_switch(switch, "no effect; accepted because old init scripts have this option")
    return parser


class Agent:
    """One agent: the options of its command line, and the settings that were read from its files last."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._files = _global_conf(given)
        self._options = {name: value for name, value in given.items() if name not in _NOT_OPTIONS}
        self._settings = self._read()

    def run(self) -> None:
        """Serve until a signal ends the agent, with SystemExit. Raises `ConfigError` before it serves.

        The configuration is read and all code is loaded as the user that started the agent. Only then the
        socket of another agent is replaced.
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
        """At SIGHUP: application and settings from the files as they are now; raises `ConfigError`."""
        settings = self._read()
        application = self._load(settings)
        for option in _NEXT_START:
            if getattr(settings, option) != getattr(self._settings, option):
                LOG.warning("option %r has changed; the new value takes effect at the next start", option)
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
    """The path of the socket, in which $state_path of a file or of the command line is replaced."""
    conf = settings.config.parse(PROGRAM, [_STATE_PATH, _SOCKET])
    conf.set_override("state_path", settings.state_path)
    try:
        return str(conf.metadata_proxy_socket)
    except cfg.Error as error:
        raise options.refuse(settings, "metadata_proxy_socket", one_line(str(error))) from None


def _listen(settings: SimpleNamespace, agent: Identity) -> "AgentSocket":
    user, group = settings.metadata_proxy_user, settings.metadata_proxy_group
    proxy = identity_of(user, group)
    mode = mode_of(settings.metadata_proxy_socket_mode, user, group, proxy, agent)
    owner = Identity(proxy.uid if user else agent.uid, proxy.gid if user or group else agent.gid)
    return AgentSocket(settings.metadata_proxy_socket, mode, owner, settings.metadata_backlog)


def _group_directory(state_path: str, ids: Identity) -> str:
    """A new directory for files that the workers share, made where its owner can remove it."""
    if ids != own_identity():
        directory = tempfile.mkdtemp(prefix=_GROUP_DIR_PREFIX)
        os.chown(directory, ids.uid, ids.gid)
        return directory
    parents = [path for path in (*_GROUP_DIR_PARENTS, state_path) if os.access(path, os.W_OK | os.X_OK)]
    return tempfile.mkdtemp(prefix=_GROUP_DIR_PREFIX, dir=next(iter(parents), None))


@contextlib.contextmanager
def _afterwards(clean_up: Callable[[], None]) -> Iterator[None]:
    """Clean up at the end of the block, but not in a worker, whose end passes here too."""
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:
            clean_up()


# --- the socket of the agent ------------------------------------------------------------


def mode_of(setting: str, user: str, group: str, proxy: Identity, agent: Identity) -> int:
    """The mode of the socket that the value `setting` of `metadata_proxy_socket_mode` stands for.

    `user` and `group` are the configured names of the proxies' user and group, `proxy` has their numbers.
    `agent` is the identity of the agent. "deduce" gives the strictest mode with which the proxies can
    connect.
    """
    if setting != DEDUCE:
        return MODES[setting]
    if not user or proxy.uid in (0, agent.uid):
        return MODES["user"]
    if not group or proxy.gid == agent.gid:
        return MODES["group"]
    return MODES["all"]


class AgentSocket:
    """Listens at `path`, and replaces a socket that is there; `sock` is for the server.

    The directory is made if it does not exist. The owner is set only if this process is root. The constructor
    raises `ConfigError`.
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
        """Remove the file, unless it is that of another agent, or this user may not remove it.

        A file that stays does no harm: the next start replaces it.
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
        raise OSError("the file exists, and is not a socket")
    path.unlink()
