"""The connection that a request came over, as far as the WSGI server lets one ask."""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

from mdmw.records import Environ


@contextlib.contextmanager
def connection(environ: Environ) -> Iterator[Any]:
    """The accepted socket, only to be asked about itself; None where the server hides it."""
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        yield sock
    elif "waitress.client_disconnected" in environ:
        yield environ["waitress.client_disconnected"].__self__.socket
    elif "uwsgi.version" in environ:
        import uwsgi  # only exists inside a uWSGI worker

        with socket.socket(fileno=os.dup(uwsgi.connection_fd())) as duplicate:
            yield duplicate
    else:
        yield None
