"""What each server can and cannot do, as doc/servers.rst tells operators; the tests hold them to it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """The defaults are what mdmw wants; a server that differs says so below."""

    raw_target: bool = True  # W-7: the target arrives byte for byte
    keep_alive: bool = True  # W-11
    chunked_requests: bool = True  # W-8; else 411
    answers_expect: bool = True  # W-9: 100 Continue
    several_listeners: bool = True
    keeps_names_apart: bool = True  # W-2, W-3: X_Name is dropped, or joined to X-Name with a comma


TRAITS: dict[str, Traits] = {
    "gunicorn-gthread": Traits(),
    "gunicorn-gevent": Traits(),
    "uwsgi": Traits(keep_alive=False, chunked_requests=False, answers_expect=False),
    "waitress": Traits(),
    "granian": Traits(raw_target=False, several_listeners=False, keeps_names_apart=False),
}
