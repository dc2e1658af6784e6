"""Logs: where they go when nobody else has said so."""

import logging

FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"


def log_to_stderr(level: int = logging.INFO) -> None:
    """Give the `mdmw` loggers a handler, unless the server or the operator gave the root one."""
    logger = logging.getLogger("mdmw")
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(level)
