"""The processes of `mdmw demo`: started in one folder, waited for, and ended with it."""

import contextlib
import functools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mdmw.errors import ConfigError
from mdmw.node.spawn import Identity, become
from mdmw.wsgi.pipelines import INI_VARIABLE

_START_TIMEOUT = 30.0
_END_TIMEOUT = 45.0  # longer than any of them waits for its guests
_LOOK_EVERY = 0.02
_NODE = "mdmw-node"


class Processes:
    """Each has its log in `home`, where `api-paste.ini` is; `stack` ends them.

    With an `identity` those that serve a pipeline have it, without root's powers.
    """

    def __init__(self, home: Path, stack: contextlib.ExitStack, identity: Identity | None = None) -> None:
        self._home = home
        self._stack = stack
        self._become = functools.partial(become, identity) if identity else None
        self._logs: list[Path] = []

    def serve(self, pipeline: str, *binds: str, inherit: Sequence[socket.socket] = ()) -> None:
        """A pipeline, served when this returns; raises `ConfigError`."""
        words = [word for bind in binds for word in ("--bind", bind)]
        command = [
            sys.executable,
            "-m",
            "mdmw",
            "serve",
            pipeline,
            "--workers",
            "1",
            "--threads",
            "64",
            *words,
        ]
        environ = {INI_VARIABLE: str(self._home / "api-paste.ini")}
        process = self._start(pipeline, command, environ, inherit, self._become)
        for bind in binds:
            if bind.startswith("unix:"):
                self._wait_until(functools.partial(_accepts, bind.removeprefix("unix:")), pipeline, process)

    def node(self, *words: str) -> None:
        """The daemon, with workers that serve when this returns; raises `ConfigError`."""
        address = str(self._home / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(address)
            notices.setblocking(False)
            program = Path(sys.executable).with_name(_NODE)
            process = self._start(_NODE, [str(program), *words], {"NOTIFY_SOCKET": address})
            self._wait_until(functools.partial(_is_ready, notices), _NODE, process)

    def wait(self) -> None:
        """Until one of them ends by itself, which is a `ConfigError`."""
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        raise ConfigError("a process ended; the logs are:\n" + "".join(log.read_text() for log in self._logs))

    def _start(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        inherit: Sequence[socket.socket] = (),
        before: Callable[[], None] | None = None,
    ) -> subprocess.Popen[bytes]:
        path = self._home / f"{name}.log"
        self._logs.append(path)
        log = self._stack.enter_context(path.open("wb"))
        process = subprocess.Popen(  # noqa: S603 - no shell, and words of ours alone
            command,
            env={**os.environ, **environ},
            pass_fds=[sock.fileno() for sock in inherit],
            stdout=log,
            stderr=log,
            preexec_fn=before,
        )
        self._stack.callback(_end, process)
        return process

    def _wait_until(self, holds: Callable[[], bool], name: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not holds():
            if process.poll() is not None or time.monotonic() > deadline:
                said = self._logs[-1].read_text().splitlines() or ["it said nothing"]
                raise ConfigError(f"{name} did not start: {said[-1]}")
            time.sleep(_LOOK_EVERY)  # a socket cannot say when it begins to listen


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return not probe.connect_ex(path)


def _is_ready(notices: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return notices.recv(100) == b"READY=1"
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
