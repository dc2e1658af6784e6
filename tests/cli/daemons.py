"""The daemons as processes: started as an init script does, watched by what they log."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from guest import Reply
from peers import PATIENCE

from mdmw.signing import Signer

TERM = signal.SIGTERM
HUP = signal.SIGHUP

#: What gunicorn says when its workers are about to start.
LISTENING = "Listening at"

BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
ADA = "7c52af88-d14b-45ae-87cf-be154d8c8638"  # has 10.0.0.5 on blue
ADDRESS = "10.0.0.5"
INVENTORY = Path(__file__).parents[2] / "etc" / "inventory.yaml"


def program(name):
    """The command as it is installed."""
    return str(Path(sys.executable).with_name(name))


class Daemon:
    """A process, and what it has said on standard error so far."""

    def __init__(self, command, **more):
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MDMW_")}
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environ | more,
        )
        self.lines = []
        self._said = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()

    def count(self, text):
        return sum(text in line for line in self.lines)

    def wait_for(self, text, times=1):
        """Until it has said `text` so often."""
        with self._said:
            self._said.wait_for(lambda: self._ended or self.count(text) >= times, PATIENCE)
        assert self.count(text) >= times, "\n".join(self.lines)

    def signal(self, number):
        self.process.send_signal(number)

    def status(self):
        """The status with which it ends, within the patience of a test."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE)
        self.process.stderr.close()


@contextlib.contextmanager
def running(command, ready="", **environ):
    """A daemon that has said `ready`, if that is given."""
    daemon = Daemon(command, **environ)
    try:
        if ready:
            daemon.wait_for(ready)
        yield daemon
    finally:
        daemon.close()


def refusal(command):
    """The one line of a daemon that does not start; its status must be 2."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def agent_files(folder, nova, **more):
    """neutron.conf and metadata_agent.ini as an operator has them; returns the agent's command line."""
    given = {
        "nova_metadata_host": nova.address if nova.address.scheme == "unix" else nova.address.authority,
        "metadata_proxy_shared_secret": "s3cret",
        "metadata_proxy_socket": folder / "metadata_proxy",
        "metadata_workers": 2,
        "resolver": "inventory",
        "inventory_file": INVENTORY,
    } | more
    (folder / "neutron.conf").write_text(
        "[DEFAULT]\ncore_plugin = ml2\nstate_path = /nowhere\n[database]\nconnection = mysql://u:hunter2@h\n"
    )
    write_options(folder / "metadata_agent.ini", given)
    files = ("--config-file", folder / "neutron.conf", f"--config-file={folder / 'metadata_agent.ini'}")
    return [program("mdmw-metadata-agent"), *files]


def write_options(path, given):
    lines = [f"{name} = {value}\n" for name, values in given.items() for value in _several(values)]
    path.write_text("[DEFAULT]\n" + "".join(lines))


def _several(values):
    return values if isinstance(values, list) else [values]


def ask(path, target="/latest/meta-data/", method="GET", body=b"", timeout=PATIENCE):
    """One request of a proxy for the guest, on a connection of its own: status and body."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(str(path))
        lines = [
            f"{method} {target} HTTP/1.1",
            "Host: x",
            "Connection: close",
            f"Content-Length: {len(body)}",
        ]
        lines += [f"X-Forwarded-For: {ADDRESS}", f"X-Neutron-Network-ID: {BLUE}"]
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        data = b""
        while part := sock.recv(65536):
            data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = [tuple(field.split(": ", 1)) for field in fields]
    return Reply(int(line.split(" ")[1]), line, headers, rest)


def verifying(secrets, seen=None):
    """A script of Nova's: 200 for a signature made with one of the secrets, which is counted; else 403."""
    signatures = {Signer([secret]).sign(ADA.encode()): secret for secret in secrets}

    def script(conversation):
        while received := conversation.request():
            secret = signatures.get(received.value("X-Instance-ID-Signature"))
            if secret and seen is not None:
                seen[secret] += 1
            line = b"200 OK" if secret else b"403 Forbidden"
            conversation.send(
                b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nfine" % line
            )

    return script
