"""mdmw-node as a test runs it: in a directory of its own, with a supervisor that listens as systemd does."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mdmw.node.control import KeeperClient, ask_again, called
from mdmw.node.namespaces import run

READY_WITHIN = 15.0
PATIENCE = 8.0
USER = "nobody"
_START = (
    "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
    "from mdmw.cli.node_daemon import main; sys.exit(main())"
)
_INI = """
[pipeline:proxy]
pipeline = identify to-agent
[filter:identify]
use = egg:mdmw#source-identify
mode = listener
client_mac = true
[app:to-agent]
use = egg:mdmw#agent-forward
metadata_proxy_socket = {agent}
"""


class Supervisor:
    """Hears what daemons say of themselves, and keeps descriptors for them by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[str, int] = {}
        self.said: list[str] = []
        self._changed = threading.Condition()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def wait_for(self, text: str, count: int = 1) -> None:
        """Until some daemon has said it so many times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.said.count(text) >= count, READY_WITHIN), self.said

    def forget(self) -> None:
        """What was said so far."""
        with self._changed:
            self.said.clear()

    def drop(self) -> None:
        """Keep nothing, as where there is no systemd."""
        for descriptor in self.kept.values():
            os.close(descriptor)
        self.kept.clear()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"END", str(self.path))
        self._thread.join()
        self._sock.close()
        self.drop()

    def _hear(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._sock, 4096, 1)
            if data == b"END":
                return
            words = dict(line.split("=", 1) for line in data.decode().splitlines())
            with self._changed:
                if "FDSTORE" in words:
                    if words["FDNAME"] in self.kept:  # the same socket once more
                        os.close(self.kept.pop(words["FDNAME"]))
                    self.kept[words["FDNAME"]] = descriptors[0]
                elif "FDSTOREREMOVE" in words:
                    os.close(self.kept.pop(words["FDNAME"]))
                else:
                    self.said.append(data.decode())
                self._changed.notify_all()


class Site:
    """Where daemons run: `directory` is their run directory, `log` has what they all wrote."""

    def __init__(self, directory: Path, agent: Path) -> None:
        self.directory = directory
        self.ini = directory / "api-paste.ini"
        self.ini.write_text(_INI.format(agent=agent))
        self.log_file = directory / "log"
        self.supervisor = Supervisor(directory / "notify")
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def start(self, *arguments: str, keep: Sequence[tuple[str, int]] = ()) -> subprocess.Popen[bytes]:
        """Start a daemon; `keep` are the descriptors that systemd hands over to it."""
        command = [sys.executable, "-c", _START, "--ini", str(self.ini), "--run-dir", str(self.directory)]
        environ = os.environ | {"NOTIFY_SOCKET": str(self.supervisor.path)}
        if keep:
            environ |= {
                "LISTEN_FDS": str(len(keep)),
                "LISTEN_FDNAMES": ":".join(name for name, _ in keep),
            }
            numbers = " ".join(f"{3 + n}<&{fd}" for n, (_, fd) in enumerate(keep))
            command = ["bash", "-c", f'exec "$@" {numbers}', "bash", *command]
        with self.log_file.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--user", USER, *arguments],
                stdout=output,
                stderr=output,
                env=environ,
                pass_fds=[descriptor for _, descriptor in keep],
                cwd="/",
            )
        self._processes.append(process)
        return process

    def started(self, *arguments: str, keep: Sequence[tuple[str, int]] = ()) -> subprocess.Popen[bytes]:
        """Start a daemon, and wait until it serves."""
        self.supervisor.forget()
        process = self.start(*arguments, keep=keep)
        self.supervisor.wait_for("READY=1")
        return process

    @contextlib.contextmanager
    def call(self) -> Iterator[KeeperClient]:
        """The control socket."""
        with called(self.directory / "node.sock") as caller:
            yield caller

    def want(self, *listeners: list[object]) -> None:
        """Have these listened to: [namespace, [address, port, device], [kind, id]]."""

        def tell() -> None:
            with self.call() as caller:
                for start in range(0, len(listeners), 100):
                    caller.tell("want", listeners=listeners[start : start + 100], more=True)
                caller.tell("want", listeners=[], more=False)

        ask_again(tell)

    def listeners(self) -> list[dict[str, object]]:
        with self.call() as caller:
            return [dict(message.fields) for message in caller.ask("list")]

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the daemon does by itself; a look now and then, since nobody tells."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def wait_for_log(self, text: str) -> None:
        self.until(lambda: text in self.log)

    def workers(self, keeper: subprocess.Popen[bytes]) -> list[int]:
        """The process ids of the workers of a daemon."""
        return [worker for preloader in children(keeper.pid) for worker in children(preloader)]

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.supervisor.close()


def children(pid: int) -> list[int]:
    """Those of a process with one thread; empty when it has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def site(agent: Path | None = None) -> Iterator[Site]:
    """A place for daemons, which end with it. Its directory is short, and open to the workers."""
    with tempfile.TemporaryDirectory(prefix="mdmw-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        made = Site(directory, agent or directory / "agent")
        try:
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def namespaces(*names: str, addresses: Sequence[str] = ()) -> Iterator[None]:
    """Namespaces whose loopback device has 169.254.169.254 and these; guest and node are one there."""
    made = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            made.append(name)
            lines = [f"address add {address}/32 dev lo" for address in ("169.254.169.254", *addresses)]
            run("ip", "-n", name, "-batch", "-", stdin="\n".join(["link set lo up", *lines, ""]))
        yield
    finally:
        for name in made:
            with contextlib.suppress(Exception):
                run("ip", "netns", "delete", name)
