"""What each server can and cannot do, as doc/servers.rst tells operators; the tests hold them to it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """The defaults are what mdmw wants; a server that differs says so below."""

    raw_target: bool = True  # W-7: the target arrives byte for byte
    keep_alive: bool = True  # W-11
    chunked_requests: bool = True  # W-8; else 411
    answers_expect: bool = True  # W-9: 100 Continue
    closes_connect: bool = False  # W-6: no 405 for CONNECT
    cut_shows_without_length: bool = True  # W-17: a body whose length nobody knew, cut by Nova
    odd_targets: bool = True  # W-7: characters that RFC 3986 does not allow in a path, such as ^
    several_listeners: bool = True
    shows_connection: bool = True  # mode listener: by namespace and address, not only by port
    keeps_names_apart: bool = True  # W-2, W-3: X_Name is dropped or joined to X-Name; else relays sign


TRAITS: dict[str, Traits] = {
    "gunicorn": Traits(),
    "gunicorn-gevent": Traits(),
    "uwsgi": Traits(
        keep_alive=False, chunked_requests=False, answers_expect=False, cut_shows_without_length=False
    ),
    "waitress": Traits(),
    "granian": Traits(
        raw_target=False,
        several_listeners=False,
        shows_connection=False,
        keeps_names_apart=False,
        cut_shows_without_length=False,
        closes_connect=True,
        odd_targets=False,
    ),
}
