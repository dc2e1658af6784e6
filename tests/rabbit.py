"""A real RabbitMQ in a directory of its own, on loopback, and a relay that stands between it and mdmw.

RabbitMQ takes seconds to start, so there is one for the whole session; the relay is what goes down.
"""

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from peers import PATIENCE

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
USER = "neutron"


class Rabbit:
    """A broker; `url(port)` is a transport_url for it, or for a relay in front of it."""

    def __init__(self, directory: Path) -> None:
        self.password = secrets.token_urlsafe(12)
        self.port, distribution, mapper = free_ports(3)
        self._log = (directory / "output").open("wb")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._configure(directory)
        self._environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_NODENAME": "mdmw@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": f"{directory}/mnesia",
            "RABBITMQ_LOG_BASE": f"{directory}/log",
            "RABBITMQ_CONFIG_FILE": f"{directory}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/enabled_plugins",
            "NOTIFY_SOCKET": f"{directory}/ready",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(self._environment["NOTIFY_SOCKET"])
        self._ready.settimeout(60)
        try:
            self._run("epmd", "-port", str(mapper), "-address", "127.0.0.1")
            self.start()
        except BaseException:
            self.close()
            raise

    def url(self, port: int | None = None, password: str | None = None) -> str:
        return f"rabbit://{USER}:{password or self.password}@127.0.0.1:{port or self.port}/"

    def start(self) -> None:
        """Start the broker, and wait until it says that it is there."""
        self._run(SERVER)
        while b"READY=1" not in self._ready.recv(4096):
            pass

    def kill(self) -> None:
        """End what was started last, the broker, without giving it time for anything."""
        process = self._processes.pop()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)

    def close(self) -> None:
        while self._processes:
            self.kill()
        self._ready.close()
        self._log.close()

    def _configure(self, directory: Path) -> None:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "users": [{"name": USER, "password": self.password, "tags": []}],
            "vhosts": [{"name": "/"}],
            "permissions": [{"user": USER, "vhost": "/"} | everything],
        }
        (directory / "definitions.json").write_text(json.dumps(definitions))
        (directory / "enabled_plugins").write_text("[].\n")
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"load_definitions = {directory}/definitions.json\n"
            "log.file = false\nlog.console = true\nlog.console.level = warning\n"
        )

    def _run(self, *command: str) -> None:
        self._processes.append(
            subprocess.Popen(
                command,
                env=self._environment,
                cwd="/",
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, for kill
            )
        )


class Relay:
    """Carries connections to the broker, until it is told to do something else with them."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._carries = threading.Event()
        self._carries.set()
        self.port = self.up()

    def up(self) -> int:
        """Listen, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", getattr(self, "port", 0)))
        listener.listen(64)
        self._listener = listener
        self._carries.set()
        self._start(self._accept, listener)
        return int(listener.getsockname()[1])

    def down(self) -> None:
        """As when RabbitMQ dies: connections end, new ones are refused."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        """As when the way to RabbitMQ swallows everything: connections stay, nothing is carried."""
        self._carries.clear()

    def close(self) -> None:
        self.down()
        self._carries.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _start(self, target, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self._start(self._carry, near)

    def _carry(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.create_connection(("127.0.0.1", self._target)) as far:
            with self._lock:
                self._sockets |= {near, far}
            try:
                while self._pass_on(near, far):
                    pass
            finally:
                with self._lock:
                    self._sockets -= {near, far}

    def _pass_on(self, near: socket.socket, far: socket.socket) -> bool:
        for sock in select.select([near, far], [], [])[0]:
            data = sock.recv(65536)
            self._carries.wait(PATIENCE)
            if not data:
                return False
            (far if sock is near else near).sendall(data)
        return True


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


@contextlib.contextmanager
def running() -> Iterator[Rabbit | None]:
    """A RabbitMQ; None where it is not installed."""
    if not (Path(SERVER).exists() and shutil.which("epmd")):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="mdmw-rabbit") as directory:
        rabbit = Rabbit(Path(directory))
        try:
            yield rabbit
        finally:
            rabbit.close()
