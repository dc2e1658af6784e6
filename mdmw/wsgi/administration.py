"""The app `admin`, with what only this layer can say: the pipelines of the ini file that it is in."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from mdmw.admin import app
from mdmw.errors import ConfigError, Unavailable
from mdmw.wsgi import catalogue, pipelines

OPTIONS = app.OPTIONS


def app_factory(global_conf: Mapping[str, str], **local_conf: str) -> app.Admin:
    """Paste entry point; raises `ConfigError`."""
    return app.make(global_conf, local_conf, partial(_pipelines, global_conf.get("__file__")))


def _pipelines(path: str | None) -> dict[str, Any]:
    try:
        return catalogue.pipelines(path or pipelines.ini_file())
    except ConfigError as error:  # the file was changed since, and is not good any more
        raise Unavailable(str(error)) from None
