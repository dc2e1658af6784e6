"""gunicorn inside a daemon of ours: the settings of etc/gunicorn.conf.py, our sockets, our log."""

import concurrent.futures.thread  # noqa: F401 - a worker would import it, when the privileges are gone
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
from mdmw.observe import introspection
from mdmw.observe.logs import FORMAT
from mdmw.wire import one_line
from mdmw.wsgi.pipelines import SWITCH_INTERVAL
from mdmw.wsgi.process import by_master

OPTIONS = [
    cfg.StrOpt("log_file", deprecated_name="logfile", help="File to log to; default: standard error."),
    cfg.StrOpt("log_dir", deprecated_name="logdir", help="Directory of the log file."),
    cfg.BoolOpt("use_syslog", default=False, help="Log to syslog instead of standard error."),
    cfg.StrOpt("syslog_log_facility", default="LOG_USER", help="Facility of syslog."),
    cfg.StrOpt(
        "log_config_append",
        deprecated_name="log_config",
        help="File for logging.config, instead of all else.",
    ),
    cfg.StrOpt("log_date_format", help="Format of the time, as of strftime."),
    cfg.BoolOpt("debug", default=False, help="Log more of mdmw itself."),
    cfg.BoolOpt("verbose", default=False, help="Has no effect."),
]
_DEV_LOG = "/dev/log"


def start_log(settings: SimpleNamespace, name: str, watch: bool = True) -> None:
    """Open the log that `settings` (of `OPTIONS`) want; raises `ConfigError`.

    In `log_dir` alone the file is `name`.log. With `watch` a file that was moved
    away is opened anew, which a process that has dropped its privileges may not be able to.
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
    logging.getLogger("stevedore").setLevel(logging.ERROR)  # what it warns of is in our own errors
    set_level(settings)


def set_level(settings: SimpleNamespace) -> None:
    """`debug` is for our own messages only: libraries show credentials at that level."""
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


LOG = logging.getLogger(__name__)


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own messages go where ours go."""

    def setup(self, cfg: Config) -> None:
        self.cfg = cfg
        self.error_log.propagate = True

    def reopen_files(self) -> None:
        """Our handlers watch their files themselves."""


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Worker processes for one application on one listening socket.

    The processes are `ids`: all is loaded before the privileges go. `reload` makes
    a new application and its settings at SIGHUP. When it raises
    `ConfigError` the workers stay as they are. Workers have the application from
    this process, so that one which cannot be loaded never ends the server.
    """

    def __init__(
        self,
        application: App,
        listener: socket.socket,
        ids: Identity,
        settings: Mapping[str, Any],
        reload: Callable[[], tuple[App, Mapping[str, Any]]],
    ) -> None:
        self._listener = listener
        self._ids = ids
        self._settings = settings
        self._reload = reload
        super().__init__()
        self.callable = application

    def load_config(self) -> None:
        """Called by gunicorn, at the start and at every SIGHUP."""
        fixed = {
            "bind": [f"fd://{self._listener.fileno()}"],
            "logger_class": Log,
            "worker_class": _Worker,
            "user": self._ids.uid,
            "group": self._ids.gid,
        }
        _set(self.cfg, _shipped() | dict(self._settings) | fixed)

    def renew(self) -> None:
        """Take a new application and settings; raises `ConfigError` and then keeps the old ones."""
        self.callable, self._settings = self._reload()

    def run(self) -> None:
        """Serve until a signal ends it; leaves by SystemExit, in the workers too."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        become(self._ids)
        _Master(self).run()


class _Master(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    def start(self) -> None:
        super().start()
        self.systemd = True  # the file of a socket that gunicorn did not make is not its to remove

    def handle_hup(self) -> None:
        try:
            self.app.renew()
        except ConfigError as error:
            LOG.error("SIGHUP: the old configuration stays in service: %s", error)  # noqa: TRY400 - the line says it all
            return
        super().handle_hup()
        LOG.info("SIGHUP: the new configuration is in service")

    def handle_usr2(self) -> None:
        LOG.warning("SIGUSR2 has no meaning here; SIGHUP reads the configuration again")


class _Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    def run(self) -> None:
        introspection.provide("reload", by_master)
        introspection.open_all()
        super().run()


class OneProcess(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker without a master: threads in this process serve `listeners` until SIGTERM.

    It becomes `ids`, and then calls `ready`, when all is loaded, just before the
    first connection is accepted.
    """

    def __init__(
        self,
        application: App,
        listeners: list[socket.socket],
        ids: Identity,
        settings: Mapping[str, Any],
        ready: Callable[[], None],
    ) -> None:
        cfg = Config()
        _set(cfg, _shipped() | {"logger_class": Log} | dict(settings))
        server = _Loaded(application)
        super().__init__(1, os.getppid(), listeners, server, cfg.timeout / 2, cfg, Log(cfg))
        self._ids = ids
        self._ready = ready

    def serve(self) -> None:
        """Returns when requests under way are answered, or their time (graceful_timeout) is over."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        self.init_process()

    def init_signals(self) -> None:
        super().init_signals()
        for number in (signal.SIGHUP, signal.SIGUSR1):  # nothing to read again, nor to open again
            signal.signal(number, signal.SIG_IGN)

    def handle_quit(self, sig: int, frame: Any) -> None:
        # gunicorn's own takes a lock of the thread pool, which this thread may hold already.
        self.handle_exit(sig, frame)

    def notify(self) -> None:
        """There is no master to tell."""

    def is_parent_alive(self) -> bool:
        """There is no master to follow."""
        return True

    def run(self) -> None:
        become(self._ids)
        self._ready()
        super().run()


class _Loaded:
    """What a worker takes for a gunicorn application."""

    def __init__(self, application: App) -> None:
        self._application = application

    def wsgi(self) -> App:
        return self._application


def _shipped() -> dict[str, Any]:
    """The settings of etc/gunicorn.conf.py, save how it reloads: that is done in another way here."""
    settings = runpy.run_path(str(resources.files("mdmw") / "etc" / "gunicorn.conf.py"))
    settings["on_starting"] = settings["hold_stops"]
    return settings


def _set(cfg: Config, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name in cfg.settings:
            cfg.set(name, value)
