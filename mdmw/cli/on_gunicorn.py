"""gunicorn inside a daemon of mdmw, with the limits of etc/gunicorn.conf.py and the daemon's sockets and log.

`Server` has a master and workers, `OneProcess` serves in the process that calls it. The log options of the
daemons are here too.
"""

import concurrent.futures.thread  # noqa: F401 - a worker would import it after it has given up its privileges
import configparser
import logging
import logging.config
import logging.handlers
import os
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker
from oslo_config import cfg

from mdmw.boundary.stage import App
from mdmw.errors import ConfigError
from mdmw.identity import Identity, become
from mdmw.observe.logs import FORMAT
from mdmw.wire import one_line
from mdmw.wsgi.process import SWITCH_INTERVAL, by_master, start_answering

LOG = logging.getLogger(__name__)

OPTIONS = [
    cfg.StrOpt("log_file", deprecated_name="logfile", help="File to log to; default: standard error."),
    cfg.StrOpt("log_dir", deprecated_name="logdir", help="Directory of the log file."),
    cfg.BoolOpt("use_syslog", default=False, help="Log to syslog instead of standard error."),
    cfg.StrOpt("syslog_log_facility", default="LOG_USER", help="Syslog facility of the log messages."),
    cfg.StrOpt(
        "log_config_append",
        deprecated_name="log_config",
        help="File with a configuration for Python's logging.config; other log options then have no effect.",
    ),
    cfg.StrOpt("log_date_format", help="Format of the time in a log line, as of strftime."),
    cfg.BoolOpt("debug", default=False, help="Also log debug messages of mdmw, but not of libraries."),
    cfg.BoolOpt("verbose", default=False, help="This option has no effect; old configuration files have it."),
]
_DEV_LOG = "/dev/log"


def start_log(settings: SimpleNamespace, name: str, watch: bool = True) -> None:
    """Open the log that `settings` (of `OPTIONS`) describe; raises `ConfigError`.

    With `log_dir` but without `log_file`, the file is `name`.log. With `watch`, the file is opened again
    after it was moved away; a process that has given up its privileges may not be able to do this.
    """
    try:
        if settings.log_config_append:
            logging.config.fileConfig(settings.log_config_append, disable_existing_loggers=False)
            return
        handler = _handler(settings, name, watch)
    except (OSError, ValueError, KeyError, RuntimeError, configparser.Error) as error:
        raise ConfigError(f"the log cannot be opened: {one_line(str(error))}") from None
    handler.setFormatter(logging.Formatter(FORMAT, settings.log_date_format))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("stevedore").setLevel(logging.ERROR)  # its warnings are errors of mdmw too
    set_level(settings)


def set_level(settings: SimpleNamespace) -> None:
    """Set the level of the log. `debug` is for mdmw only, because libraries log credentials at that level."""
    logging.getLogger("mdmw").setLevel(logging.DEBUG if settings.debug else logging.INFO)


def _handler(settings: SimpleNamespace, name: str, watch: bool) -> logging.Handler:
    if settings.log_file or settings.log_dir:
        path = Path(settings.log_dir or "") / (settings.log_file or f"{name}.log")
        return logging.handlers.WatchedFileHandler(path) if watch else logging.FileHandler(path)
    if settings.use_syslog:
        facility = settings.syslog_log_facility.lower().removeprefix("log_")
        number = logging.handlers.SysLogHandler.facility_names[facility]
        handler = logging.handlers.SysLogHandler(_DEV_LOG, number)
        handler.ident = f"{name}: "
        return handler
    return logging.StreamHandler()


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Sends gunicorn's messages to the log of mdmw."""

    def setup(self, cfg: Config) -> None:
        self.cfg = cfg
        self.error_log.propagate = True

    def reopen_files(self) -> None:
        """Do nothing: the handlers of mdmw watch their files."""


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """A master and worker processes for one application on one listening socket.

    The processes run as `identity`; the application is loaded before. At SIGHUP, `reload` makes a new
    application and new settings; when it raises `ConfigError`, the workers stay as they are. Workers are
    forked with the application loaded, so that an application that cannot be loaded never ends the server.
    """

    def __init__(
        self,
        application: App,
        listener: socket.socket,
        identity: Identity,
        settings: Mapping[str, Any],
        reload: Callable[[], tuple[App, Mapping[str, Any]]],
    ) -> None:
        self._listener = listener
        self._identity = identity
        self._settings = settings
        self._reload = reload
        super().__init__()
        self.callable = application

    def load_config(self) -> None:
        """Set gunicorn's settings; gunicorn calls this at the start and at each SIGHUP."""
        fixed = {
            "bind": [f"fd://{self._listener.fileno()}"],
            "logger_class": Log,
            "worker_class": _Worker,
            "user": self._identity.uid,
            "group": self._identity.gid,
        }
        _set(self.cfg, _shipped() | dict(self._settings) | fixed)

    def renew(self) -> None:
        """Take a new application and settings; raises `ConfigError`, and keeps the old ones then."""
        self.callable, self._settings = self._reload()

    def run(self) -> None:
        """Serve until a signal ends the server. Ends with SystemExit, in the workers too."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        become(self._identity)
        _Master(self).run()


class _Master(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    def start(self) -> None:
        super().start()
        self.systemd = True  # so that gunicorn does not remove the file of a socket that the daemon made

    def handle_hup(self) -> None:
        try:
            self.app.renew()
        except ConfigError as error:
            LOG.error("SIGHUP: the old configuration stays in service: %s", error)  # noqa: TRY400 - the line says it all
            return
        super().handle_hup()
        LOG.info("SIGHUP: the new configuration is in service")

    def handle_usr2(self) -> None:
        LOG.warning("SIGUSR2 has no effect; send SIGHUP to have the configuration read again")


class _Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    def run(self) -> None:
        start_answering(self.wsgi, by_master)
        super().run()


class OneProcess(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker without a master: threads in this process serve `listeners` until SIGTERM.

    When all is loaded, and before the first connection is accepted, the process becomes `identity` and calls
    `ready`.
    """

    def __init__(
        self,
        application: App,
        listeners: list[socket.socket],
        identity: Identity,
        settings: Mapping[str, Any],
        ready: Callable[[], None],
    ) -> None:
        cfg = Config()
        _set(cfg, _shipped() | {"logger_class": Log} | dict(settings))
        server = _Loaded(application)
        super().__init__(1, os.getppid(), listeners, server, cfg.timeout / 2, cfg, Log(cfg))
        self._identity = identity
        self._ready = ready

    def serve(self) -> None:
        """Serve; returns when requests under way have answers, or `graceful_timeout` seconds are over."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        self.init_process()

    def init_signals(self) -> None:
        super().init_signals()
        for number in (signal.SIGHUP, signal.SIGUSR1):  # this process has nothing to read or open again
            signal.signal(number, signal.SIG_IGN)

    def handle_quit(self, sig: int, frame: Any) -> None:
        # The method of gunicorn takes a lock of the thread pool, which this thread may hold already.
        self.handle_exit(sig, frame)

    def notify(self) -> None:
        """Do nothing: there is no master to notify."""

    def is_parent_alive(self) -> bool:
        """Whether the master lives; always true, because there is no master."""
        return True

    def run(self) -> None:
        become(self._identity)
        self._ready()
        super().run()


class _Loaded:
    """An application in the form in which a gunicorn worker asks for it."""

    def __init__(self, application: App) -> None:
        self._application = application

    def wsgi(self) -> App:
        return self._application


def _shipped() -> dict[str, Any]:
    """The settings of etc/gunicorn.conf.py, without the check at SIGHUP: `Server` checks in another way."""
    settings = runpy.run_path(str(resources.files("mdmw") / "etc" / "gunicorn.conf.py"))
    settings["on_starting"] = settings["hold_stops"]
    return settings


def _set(cfg: Config, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name in cfg.settings:
            cfg.set(name, value)
