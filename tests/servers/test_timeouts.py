"""W-9: how long a server waits for a guest that has begun to speak, with its time-out at one second."""

import time
from pathlib import Path

import pytest

from .client import Connection
from .launch import SERVERS, Launch, Listener
from .namespace import Namespace
from .pipelines import ADA, METADATA_ADDRESS, PORT
from .running import connected, started

_LONGEST = 8.0

#: What shortens the time-out: (environment, arguments).
_SHORT: dict[str, tuple[dict[str, str], list[str]]] = {
    "gunicorn": ({"MDMW_HEADER_TIMEOUT": "1"}, []),
    "gunicorn-gevent": ({"MDMW_HEADER_TIMEOUT": "1"}, []),
    "uwsgi": ({}, ["--socket-timeout", "1"]),
    "waitress": ({}, ["--channel-timeout=1", "--cleanup-interval=1"]),
    "granian": ({}, ["--http1-header-read-timeout", "1000"]),
}
#: Whether a guest that sends a byte now and then is stopped too.
_BOUNDS_THE_WHOLE = {"gunicorn-gevent", "granian"}
#: What becomes of a guest that stops in the middle of its body.
_STALLED_BODY = {
    "gunicorn": "408",
    "gunicorn-gevent": "waits",
    "uwsgi": "400",
    "waitress": "closed",
    "granian": "waits",
}


@pytest.mark.parametrize("server", SERVERS)
def test_w9_header_time_out(
    server: str, directory: Path, ini: Path, namespace: Namespace, session_nova: object
) -> None:
    """W-8, W-9: guests that say nothing, half a head, a head byte by byte, half a body."""
    listeners = (Listener(address=METADATA_ADDRESS, port=PORT + 10),)  # servers of the session use the others
    launch = SERVERS[server]("proxy", listeners)
    environ, arguments = _SHORT[server]
    *command, application = launch.command
    launch = Launch([*command, *arguments, application], launch.environ | environ)
    if server in ("uwsgi", "gunicorn", "gunicorn-gevent"):
        launch = Launch([*command, application, *arguments], launch.environ)
    with started(launch, ini, listeners, namespace, directory / f"{server}-timeouts.log"):
        mute = connected(listeners[0], namespace, ADA.address)
        with Connection(connected(listeners[0], namespace, ADA.address)) as silent:
            silent.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
            begun = time.monotonic()
            assert silent.is_closed()
            assert time.monotonic() - begun < _LONGEST
        with Connection(connected(listeners[0], namespace, ADA.address)) as dripping:
            assert _stopped(dripping) == (server in _BOUNDS_THE_WHOLE)
        with Connection(connected(listeners[0], namespace, ADA.address)) as stalled:
            stalled.send(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\nabc")
            assert _end(stalled) == _STALLED_BODY[server]
        with Connection(mute) as connection:
            assert connection.is_closed()


def _end(stalled: Connection) -> str:
    """A status, `closed`, or `waits` when nothing happens within three time-outs."""
    stalled.sock.settimeout(3)
    try:
        answer = stalled.rest()
    except TimeoutError:
        return "waits"
    return answer.split(b" ", 2)[1].decode() if answer else "closed"


def _stopped(dripping: Connection) -> bool:
    """Whether the server closes within three time-outs while a byte comes every 0.3 s."""
    dripping.sock.settimeout(0.3)
    dripping.send(b"GET / HTTP/1.1\r\nX: ")
    for _ in range(10):
        try:
            dripping.send(b"a")
            return dripping.sock.recv(1) == b""
        except TimeoutError:
            continue
        except OSError:
            return True
    return False
