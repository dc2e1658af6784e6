"""The log of a daemon, by the option names of oslo.log.

Not by that library: it adds the text of the exception being handled to a line, which may be
a guest's, or hold a password.
"""

import configparser
import logging
import logging.config
import logging.handlers
from pathlib import Path
from types import SimpleNamespace

from oslo_config import cfg

from mdmw.errors import ConfigError
from mdmw.observe.logs import FORMAT

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
        raise ConfigError(f"the log cannot be opened: {' '.join(str(error).split())}") from None
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
