"""Real servers with the shipped pipelines, and a client for their sockets."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

from peers import PATIENCE
from wsgi.shipped import install

from mdmw.cli import serve

ENTRY = "introspect identify-relay resolve responder"


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Host:
    """A folder with the shipped files, in which servers are started; they end with the context."""

    def __init__(self, folder, stack):
        self.folder = folder
        self.ini = install(folder)
        self._stack = stack
        text = self.ini.read_text()
        pipeline = text[text.index("[pipeline:agent]\n") :].split("\n")[1]
        text = text.replace(pipeline, f"pipeline = {ENTRY}", 1)
        self.ini.write_text(text.replace("# inventory_db", "inventory_db"))
        self.processes = {}

    def serve(self, pipeline, server="gunicorn", binds=(), workers=1, words=(), ca=None):
        """Start a server on the socket of that name, or elsewhere, and wait until it answers.

        `words` are more arguments of its command; `ca` is the file that vouches for it.
        """
        binds = binds or (f"unix:{self.folder / pipeline}",)
        module = f"mdmw.wsgi.{pipeline}" if pipeline == "agent" else "mdmw.wsgi.named"
        command = [*serve.command(server, serve.Launch(module, tuple(binds), workers, 4)), *words]
        environ = os.environ | {"MDMW_PASTE_INI": str(self.ini), "MDMW_PIPELINE": pipeline}
        log = self.folder / f"{pipeline}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environ, stdout=output, stderr=output, cwd=self.folder)
        self._stack.callback(_end, process)
        self.processes[pipeline] = process
        deadline = time.monotonic() + 3 * PATIENCE
        while not all(_answers(bind, ca) for bind in binds):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)  # between two looks

    def log(self, pipeline):
        return (self.folder / f"{pipeline}.log").read_text()

    def ask(self, method, target, document=None, headers=(), pipeline="admin-local"):
        """Status and JSON of a request to the socket of a pipeline."""
        with contextlib.closing(Connection(self.folder / pipeline)) as connection:
            return _exchange(connection, method, target, document, headers)

    def as_guest(self, network, address, target="/latest/meta-data/"):
        """A request of a guest, as its proxy sends it to the agent; the status."""
        headers = {"X-Forwarded-For": address, "X-Neutron-Network-ID": network}
        with contextlib.closing(Connection(self.folder / "agent")) as connection:
            connection.request("GET", target, headers=headers)
            return connection.getresponse().status


@contextlib.contextmanager
def host():
    """A `Host`; its folder is short, because of the sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="mdmw-"))
    try:
        with contextlib.ExitStack() as stack:
            yield Host(folder, stack)
    finally:
        shutil.rmtree(folder)


def ask_tcp(bind, method, target):
    """Status and JSON of a request to a TCP listener."""
    with contextlib.closing(http.client.HTTPConnection(bind, timeout=PATIENCE)) as connection:
        return _exchange(connection, method, target, None, ())


def _exchange(connection, method, target, document, headers):
    body = None if document is None else json.dumps(document)
    given = dict(headers) | ({"Content-Type": "application/json"} if body else {})
    connection.request(method, target, body, given)
    answer = connection.getresponse()
    said = answer.read()
    return answer.status, json.loads(said) if said else None


def _answers(bind, ca):
    try:
        with contextlib.closing(_connection(bind, ca)) as connection:
            connection.request("GET", "/ready")
            connection.getresponse()
    except OSError:
        return False
    return True


def _connection(bind, ca):
    if bind.startswith("unix:"):
        return Connection(bind.removeprefix("unix:"))
    if ca:
        return http.client.HTTPSConnection(bind, context=ssl.create_default_context(cafile=ca))
    return http.client.HTTPConnection(bind)


def _end(process):
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
