"""local-operator: without Keystone, each user who may open the unix socket is an administrator.

Reads: the connection.
Writes: `mdmw.operator`, with the number of the user at the other end of the connection as its name.
Answers: 403 if the connection is not a unix socket, or if the server hides its connections (granian).
Place: before admin, on a listener whose file only administrators may open.
"""

import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from oslo_config import cfg

from mdmw.admin.call import refusal
from mdmw.admin.policy import OPERATOR, Operator
from mdmw.boundary.peer import connection
from mdmw.boundary.stage import App, StartResponse
from mdmw.errors import Forbidden
from mdmw.identity import peer_credentials
from mdmw.options import load
from mdmw.records import Environ

OPTIONS: list[cfg.Opt] = []

_EVERYTHING = {"roles": ["admin"], "system_scope": "all"}


class LocalOperator:
    """Accepts each request that comes over a unix socket."""

    provides = frozenset({OPERATOR})

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            environ[OPERATOR] = Operator(_name(environ), credentials=_EVERYTHING)
        except Forbidden as error:
            return refusal(error, environ, "local-operator")(environ, start_response)
        return self.app(environ, start_response)


def _name(environ: Environ) -> str:
    with connection(environ) as sock:
        if sock is None:
            raise Forbidden(
                "the server does not say whether the connection is a unix socket; use gunicorn or uWSGI"
            )
        if sock.family != socket.AF_UNIX:
            raise Forbidden("local-operator accepts only unix sockets; for TCP use the filter authtoken")
        uid = peer_credentials(sock).uid
    return f"uid {uid} on the socket"


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], LocalOperator]:
    """Paste entry point; raises `ConfigError`."""
    load("local-operator", OPTIONS, global_conf, local_conf)
    return partial(LocalOperator)
